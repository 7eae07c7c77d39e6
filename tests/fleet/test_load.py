"""The load generator tells what it promises: rates, latencies, and CPU time by process group."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from load.measure import PROGRAMS, listed_processes, percentile, take_sample
from tests.fix_fleet import ROOT, RunningFleet


def test_send_reports_cost_by_process_group(fleet: RunningFleet, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    words = ["-m", "load.send", "--url", fleet.client_url, "--config", str(fleet.config), "--json", str(output)]
    words += ["--senders", "4", "--rooms", "6", "--listeners", "1", "--seconds", "2", "--warm-up", "0.5"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(output.read_text())
    assert result["events"] > 20
    assert result["errors"] == {}
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p95"] <= result["latency_ms"]["p99"]
    cpu = result["cpu_ms_per_event"]
    assert cpu.keys() >= {"event_persister", "synchrotron", "server", "generator", *PROGRAMS}
    for group in ("event_persister", "server", "postgres", "haproxy", "generator"):
        assert cpu[group] > 0, group
    assert result["per_event"]["statements"] > 0
    assert result["per_event"]["wal_bytes"] > 0
    assert result["facts"].keys() >= {"machine", "cores", "commit", "date"}
    assert f"{result['events']} events in" in done.stdout


def test_a_sample_counts_children_and_ended_children() -> None:
    """As it must for Postgres, whose work is done by processes that come and go."""
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    script = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        status = {
            "processes": [
                {"name": "p", "type": "postgres", "pid": process.pid, "host": os.uname().nodename, "address": ""}
            ]
        }
        sample = asyncio.run(take_sample(listed_processes(status), None, last=True))
        process.kill()
    assert sample.cpu_s["postgres"] >= 0.3
    assert sample.cpu_s["generator"] > 0


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, 0.0), ([1.0], 0.99, 1.0), ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0), ([1.0, 2.0, 3.0, 4.0], 0.95, 4.0)],
)
def test_percentile_is_the_least_value_that_suffices(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected
