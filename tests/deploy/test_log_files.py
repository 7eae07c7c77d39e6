"""The log files of a local fleet are for the operator and their group."""

import os
import stat
from pathlib import Path

import pytest

from deploy.local.children import fork_child
from deploy.local.servers.program import Program, start


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _program(folder: Path) -> Program:
    return Program(
        name="echo",
        type="echo",
        argv=("/bin/echo", "a line"),
        directory=folder,
        address="",
        is_ready=lambda _: True,
        environment={},
    )


def test_others_may_not_read_the_logs_of_workers_and_programs(tmp_path: Path) -> None:
    worker, program = tmp_path / "worker.log", tmp_path / "program.log"
    former = os.umask(0)
    try:
        child = fork_child(lambda: 0, worker)
        os.waitpid(child.pid, 0)
        start(_program(tmp_path), program).wait()
    finally:
        os.umask(former)
    assert (_mode(worker), _mode(program)) == (0o640, 0o640)
    assert program.read_text() == "a line\n"


@pytest.mark.parametrize(("before", "after"), [(0o644, 0o640), (0o600, 0o600)])
def test_a_log_of_an_earlier_release_loses_the_rights_of_others(tmp_path: Path, before: int, after: int) -> None:
    log = tmp_path / "program.log"
    log.write_text("an older line\n")
    log.chmod(before)
    start(_program(tmp_path), log).wait()
    assert _mode(log) == after
    assert log.read_text() == "an older line\na line\n"
