"""The load generator reports rates, latencies, and CPU time by process group."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from load.harness.expected_state import expected_state
from load.harness.generated_room import GeneratedRoom, membership_changes
from load.harness.measure import PROGRAMS, Cost, listed_processes, percentile, take_sample
from load.harness.report import Growth, Result, comparison
from shared.core.identifiers import EventId
from tests.fix_fleet import ROOT, RunningFleet
from tests.graph_rooms import BOB, GraphRoom


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
    # One statement reserves the numbers of a thousand events.
    assert result["per_event"]["other_statements"] < 0.1
    assert result["growth"]["bytes_per_event"] > result["growth"]["event_bytes"] > 400
    assert result["growth"]["by_relation"]["events"] > 0
    assert result["facts"].keys() >= {"machine", "cores", "commit", "date"}
    assert f"{result['events']} events in" in done.stdout


def test_unread_million_checks_every_count(fleet: RunningFleet, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    words = ["-m", "load.unread_million", "--url", fleet.client_url, "--config", str(fleet.config)]
    words += ["--json", str(output), "--unread", "30,300", "--operations", "3", "--no-restart"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(output.read_text())
    assert [result["case"] for result in results] == [
        "first sync",
        "receipt, 30 unread",
        "receipt, 300 unread",
        "message, 30 unread",
        "message, 300 unread",
    ]
    assert [result["changes"] for result in results[1:]] == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("scenario", "words", "cases"),
    [
        ("fanout", "--members 2,3 --messages 4 --warm-up 1", ["2 members", "3 members"]),
        ("rooms", "--count 3", ["createRoom", "invite", "join", "messages"]),
        (
            "sliding_sync",
            "--rooms 40 --members 2 --room-messages 1 --windows 2 --listeners 2 --messages 2",
            [
                "new window, merged, 1 event",
                "new window, merged, 20 events",
                "new window, deployed, 1 event",
                "new window, deployed, 20 events",
                "known window",
                "20 more rooms",
                "deliveries",
            ],
        ),
        (
            "initial_sync",
            "--rooms 3 --members 3 --messages 2 --cold 0 --warm 3 --at-once 4 --deliveries 3",
            ["warm, full", "warm, lazy", "deliveries alone", "deliveries during 4 syncs"],
        ),
    ],
)
def test_read_scenarios_report_each_case(
    fleet: RunningFleet, tmp_path: Path, scenario: str, words: str, cases: list[str]
) -> None:
    output = tmp_path / "result.json"
    command = ["-m", f"load.{scenario}", "--url", fleet.client_url, "--config", str(fleet.config)]
    command += words.split()
    command += ["--json", str(output)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(output.read_text())
    assert [result["case"] for result in results] == cases
    for result in results:
        assert result["errors"] == {}
        [cpu] = [figures for name, figures in result.items() if name.startswith("cpu_ms_per_")]
        assert {"synchrotron", "server", "postgres"} <= cpu.keys()
        assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["max"]
        memory = [used for name, used in result["memory_mib"].items() if name.startswith("synchrotron")]
        assert memory and all(0 < used["before"] <= used["peak"] < used["budget"] for used in memory)
    if scenario == "fanout":
        assert [result["deliveries"] for result in results] == [8, 12]


@pytest.mark.soak
def test_writers_scenario_counts_rows_of_each_stream(tmp_path: Path) -> None:
    """The scenario starts its own fleet and counts the rows written to each stream."""
    output = tmp_path / "result.json"
    words = ["--rounds", "1", "--seconds", "0.5", "--rate", "30", "--writers", "1,2"]
    words += ["--streams", "events,receipts,sessions,typing"]
    done = subprocess.run(
        [sys.executable, "-m", "load.writers", *words, "--json", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cases = {(case["stream"], case["writers"]): case for case in json.loads(output.read_text())["cases"]}
    assert len(cases) == 8
    for (stream, _), case in cases.items():
        assert case["operations"] == 15 and case["samples"] > 3
        assert case["rows_per_operation"] == (0 if stream == "typing" else 1)


def test_big_room_send_fills_rooms_with_local_members(fleet: RunningFleet, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    words = ["-m", "load.big_room_send", "--url", fleet.client_url, "--config", str(fleet.config)]
    words += ["--json", str(output), "--members", "2,5", "--messages", "5", "--turns", "2"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(output.read_text())
    assert [(each["case"], each["sends"]) for each in results] == [("2 members", 10), ("5 members", 10)]


def test_room_graph_compares_the_room_with_its_own_resolution(fleet: RunningFleet, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    words = ["-m", "load.room_graph", "--url", fleet.client_url, "--config", str(fleet.config), "--json", str(output)]
    words += ["--changes", "150", "--forks", "24", "--fork-batch", "8", "--batch", "50", "--settled-after", "0.5"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(output.read_text())
    changes, forks, end = result["phases"]["changes"], result["phases"]["forks"], result["end"]
    assert changes["accepted"] == changes["events"] == 150
    assert forks["accepted"] + forks.get("soft_failed", 0) == forks["events"] == 24
    assert end["wrong_entries"] == 0
    assert end["state_entries"] > 50
    assert end["local_events"] > 0  # local events merge the branches
    assert end["events"] > 150 + 24 + end["local_events"]
    for phase in (changes, forks):
        assert phase["persister_cpu_s"] > 0
        assert phase["peak_memory_mib"] > 20
        assert phase["state_storage_ratio"] > 0
        assert phase["loop_samples"] > 0
    assert sum(lane["count"] for lane in forks["resolutions"].values()) > 0


def test_made_room_knows_its_state_after_every_event() -> None:
    """Compare with the state computed event by event."""
    begun = GraphRoom("11")
    room = GeneratedRoom(begun.version, list(begun.events.values()))
    states = [
        {(e.type, e.state_key or ""): e.event_id for e in room.line[: place + 1]} for place in range(len(room.line))
    ]
    for event in membership_changes(room, 80, random.Random(5)):
        assert event.prev_event_ids == (room.line[-2].event_id,)
        states.append({**states[-1], (event.type, event.state_key or ""): event.event_id})
    assert room.state() == states[-1]
    memberships = {str(event.content["membership"]) for event in room.line[len(begun.events) :]}
    assert memberships == {"join", "leave"}
    for place, state in enumerate(states):
        assert {key: room.at(place, key) for key in states[-1]} == {key: state.get(key) for key in states[-1]}
        assert {**states[-1], **room.difference(place)} == {key: state.get(key) for key in states[-1]}


def test_expected_state_resolves_branches() -> None:
    """Two branches set the topic: the later one wins."""
    begun = GraphRoom("11")
    begun.member(BOB, "join")
    room = GeneratedRoom(begun.version, list(begun.events.values()))
    end = len(room.line) - 1
    first, second = (room.make(BOB, "m.room.topic", {"topic": name}, "", end) for name in ("one", "two"))
    key = ("m.room.topic", "")
    none: frozenset[EventId] = frozenset()
    both = [first.event_id, second.event_id]
    assert expected_state(room, [first, second], both, none) == {**room.state(), key: second.event_id}
    assert expected_state(room, [first, second], both[:1], none) == {**room.state(), key: first.event_id}
    assert expected_state(room, [first, second], both, frozenset(both[1:])) == {**room.state(), key: first.event_id}


def test_comparison_shows_the_minimum_of_each_side() -> None:
    def result(server_s: float) -> Result:
        spent = Cost(1.0, {"event_persister": server_s, "postgres": 0.1}, 50.0, 0.0, 10, 1000, {})
        return Result(
            scenario="send",
            operation="event",
            parameters={"senders": 8},
            latencies_s=[0.01] * 100,
            errors={},
            cost=spent,
            growth=Growth({("events", ""): 200}, 1.0),
            case="8",
        )

    text = comparison("abc", [[result(0.4)], [result(0.2)]], [[result(0.1)], [result(0.3)]])
    [line] = [line for line in text.splitlines() if "server CPU ms" in line]
    assert line.split() == ["8", "server", "CPU", "ms", "2.000", "(4.000)", "1.000", "(3.000)", "-50.0", "%"]
    [line] = [line for line in text.splitlines() if "growth" in line]
    assert line.split()[3] == "2.000"


async def test_sample_counts_running_and_ended_children() -> None:
    """PostgreSQL works in child processes that start and end."""
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    script = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\nprint(flush=True)\ninput()"
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        status = {
            "processes": [
                {"name": "p", "type": "postgres", "pid": process.pid, "host": os.uname().nodename, "address": ""}
            ]
        }
        sample = await take_sample(listed_processes(status), None, last=True)
        process.kill()
    assert sample.cpu_s["postgres"] >= 0.3
    assert sample.cpu_s["generator"] > 0


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, 0.0), ([1.0], 0.99, 1.0), ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0), ([1.0, 2.0, 3.0, 4.0], 0.95, 4.0)],
)
def test_percentile_uses_the_nearest_rank(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected
