"""`deploy/install.sh` on machines whose Python comes without ensurepip, as Debian's does without python3-venv."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: A Python in which no module can be run that would install packages, and ensurepip is missing.
_BARE_PYTHON = """\
#!/bin/sh
case "$*" in
    *ensurepip*) exit 1 ;;
    "-m pip"*) {pip} ;;
esac
exec {python} "$@"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with the installer, and a `tools` directory that is the whole PATH."""
    (tmp_path / "deploy").mkdir()
    for name in ("deploy/install.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cat", "cksum", "dirname", "mkdir", "rm"):
        (tools / name).symlink_to(str(shutil.which(name)))
    make_tool(tmp_path, "python3", _BARE_PYTHON.format(pip="exit 1", python=sys.executable))
    return tmp_path


def make_tool(checkout: Path, name: str, text: str) -> None:
    path = checkout / "tools" / name
    path.write_text(text)
    path.chmod(0o755)


def install(checkout: Path) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": str(checkout / "tools"), "HOME": os.environ.get("HOME", "/")}
    command = ["sh", str(checkout / "deploy/install.sh"), "embedded"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_without_any_installer_a_sentence_says_what_to_install(checkout: Path) -> None:
    done = install(checkout)
    assert done.returncode == 1 and "apt install python3-venv" in done.stderr and "uv" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_another_installer_of_the_machine_serves(checkout: Path, tool: str) -> None:
    if tool == "uv":
        make_tool(checkout, "uv", f'#!/bin/sh\necho "$@" >{checkout}/called\n')
    else:
        pip = f'echo "$@" >{checkout}/called; exit 0'
        make_tool(checkout, "python3", _BARE_PYTHON.format(pip=pip, python=sys.executable))
    done = install(checkout)
    assert done.returncode == 0, done.stderr
    called = (checkout / "called").read_text()
    assert "--python .venv/bin/python" in called and "--editable .[embedded]" in called
    assert (checkout / ".venv/installed-embedded").exists()
    (checkout / "called").unlink()
    assert install(checkout).returncode == 0 and not (checkout / "called").exists()  # nothing to do


def test_too_old_python_is_named(checkout: Path) -> None:
    make_tool(checkout, "python3", "#!/bin/sh\nexit 1\n")
    done = install(checkout)
    assert done.returncode == 1 and "Python 3.11 or newer" in done.stderr
