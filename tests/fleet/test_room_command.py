"""`skep room` beside a running fleet: the room stays in use, and its history begins after the purged part."""

import subprocess
import sys
from urllib.parse import quote

from tests.fix_fleet import ROOT, RunningFleet
from tests.fleet.people import register


def _room(fleet: RunningFleet, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "deploy.command.main", "room", words[0], "--config", str(fleet.config), *words[1:]]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_room_is_purged_and_deleted_while_members_use_it(fleet: RunningFleet) -> None:
    me, other = register(fleet, "remove-me"), register(fleet, "remove-other")
    room = me.create_room(name="bees")
    place = quote(room, safe="")
    other.ask("POST", f"/rooms/{place}/join", {})
    sent = [me.send(room, f"r{n}", {"msgtype": "m.text", "body": str(n)}).json()["event_id"] for n in range(30)]
    before = {each["event_id"] for each in other.ask("GET", f"/rooms/{place}/state")}
    would = _room(fleet, "purge", room, "--before-days", "0", "--keep", "5", "--dry-run")
    assert (would.returncode, would.stderr) == (0, "")
    assert "would be" in would.stdout
    done = _room(fleet, "purge", room, "--before-days", "0", "--keep", "5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the timeline begins at" in done.stdout

    # Members keep using the room through the persister's memory and the synchrotron's caches.
    sent.append(other.send(room, "after", {"msgtype": "m.text", "body": "on"}).json()["event_id"])
    page = me.ask("GET", f"/rooms/{place}/messages?dir=b&limit=3")
    shown = [each["event_id"] for each in page["chunk"]]
    while "end" in page:
        page = me.ask("GET", f"/rooms/{place}/messages?dir=b&limit=3&from={page['end']}")
        shown += [each["event_id"] for each in page["chunk"]]
    assert shown == sent[:-7:-1]
    assert me.call("GET", f"/rooms/{place}/event/{quote(sent[0])}").status == 404
    assert {each["event_id"] for each in other.ask("GET", f"/rooms/{place}/state")} == before
    me.ask("PUT", f"/rooms/{place}/state/m.room.name/", {"name": "wasps"})
    checked = [sys.executable, "-m", "deploy.command.main", "check", "rooms", "--config", str(fleet.config), room]
    agrees = subprocess.run(checked, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert agrees.returncode == 0, agrees.stdout
    assert _room(fleet, "continue").returncode == 0

    refused = _room(fleet, "delete", room)
    assert refused.returncode == 1
    assert "Make them leave first" in refused.stderr
    for each in (me, other):
        each.ask("POST", f"/rooms/{place}/leave", {})
    assert "0 local users are joined" in _room(fleet, "delete", room, "--dry-run").stdout
    gone = _room(fleet, "delete", room)
    assert (gone.returncode, gone.stderr) == (0, "")
    assert me.call("GET", f"/rooms/{place}/messages?dir=b").status in (403, 404)
    assert me.send(room, "gone", {"msgtype": "m.text", "body": "?"}).status in (403, 404)
    me.ask("GET", "/sync?timeout=0")
    again = _room(fleet, "delete", room)
    assert again.returncode == 1
    assert "There is no room" in again.stderr
    assert _room(fleet, "reclaim-snapshots").returncode == 0
    assert _room(fleet, "parked").stdout == "0 rooms are parked.\n"
    nothing = _room(fleet, "retry", room)
    assert nothing.returncode == 1
    assert "is not parked" in nothing.stderr
    status = fleet.status()
    assert not [each for each in status["processes"] if each["type"] == "command"], "a command gives its lease back"
