"""Room upgrades and deactivation on a fleet: resumption after kills, and the background work that follows."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from shared.config.addresses import database_dsn
from shared.config.load import load_config
from shared.runtime.fault_points import VARIABLE
from tests.fix_fleet import RunningFleet, run_fleet
from tests.fleet.people import Person, register
from tests.rigs.waiting import wait_until

_LIMIT_S = 25.0


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults") / "orders"


@pytest.fixture(scope="module")
def breakable(orders: Path) -> Iterator[RunningFleet]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(orders))
        none = dict.fromkeys(("federation_reader", "federation_sender", "media"), 0)
        yield from run_fleet(
            {
                "fleet": {"event_persister": 2, "synchrotron": 1, "client_api": 1, "background": 1, **none},
                "replication": {"heartbeat_s": 0.5, "dead_after_s": 1.5},
                "testing": {"fault_points": True},
            }
        )


def _repeated(person: Person, method: str, path: str, body: object) -> Any:
    """Repeat a request until it succeeds, and return the answer."""

    def answered() -> Any:
        try:
            answer = person.call(method, path, body)
        except OSError:
            return None  # the connection was cut
        assert answer.status in (200, 502, 503, 504), answer
        return answer if answer.status == 200 else None

    return wait_until(answered, path).json()


def _sql(fleet: RunningFleet, statement: str, *args: object) -> list[asyncpg.Record]:
    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(database_dsn(load_config(fleet.config).database))
        try:
            return await connection.fetch(statement, *args)
        finally:
            await connection.close()

    return asyncio.run(run())


def _state(person: Person, room_id: str, kind: str) -> Any:
    answer = person.call("GET", f"/rooms/{quote(room_id)}/state/{kind}/")
    return answer.json() if answer.status == 200 else None


@pytest.mark.parametrize("point", ["upgrade noted", "after the statement", "names moved", "room closed"])
def test_upgrade_completes_after_a_kill(breakable: RunningFleet, orders: Path, point: str) -> None:
    """The client repeats its request. After the kill at "names moved" the background worker resumes instead."""
    ann = register(breakable, "ann-" + point.replace(" ", "-"))
    old = _repeated(ann, "POST", "/createRoom", {"room_version": "11", "name": "Bees"})["room_id"]
    eve = f"@eve:{breakable.server_name}"
    _repeated(ann, "POST", f"/rooms/{quote(old)}/ban", {"user_id": eve})
    pids = {name: each["pid"] for name, each in breakable.processes().items()}
    orders.write_text(f"{point} kill")
    path, body = f"/rooms/{quote(old)}/upgrade", {"new_version": "12"}
    if point == "names moved":
        assert ann.call("POST", path, body).status in (502, 503)
        _sql(breakable, "UPDATE room_upgrades SET look_at = now() + interval '2 seconds' WHERE old_room_id = $1", old)
    else:
        _repeated(ann, "POST", path, body)
    assert not orders.exists(), "no persister was killed"
    tombstone = wait_until(lambda: _state(ann, old, "m.room.tombstone"), "the upgrade was not resumed")
    new = tombstone["replacement_room"]
    assert _repeated(ann, "POST", path, body) == {"replacement_room": new}
    assert set(ann.ask("GET", "/joined_rooms")["joined_rooms"]) == {old, new}
    assert _state(ann, new, "m.room.name") == {"name": "Bees"}
    members = ann.ask("GET", f"/rooms/{quote(new)}/members?membership=ban")["chunk"]
    assert [member["state_key"] for member in members] == [eve]
    changed = {name for name, pid in pids.items() if breakable.processes().get(name, {}).get("pid") != pid}
    assert changed <= {"event_persister-1", "event_persister-2"}


def test_upgrade_carries_room_settings_and_deactivation_clears_the_account(breakable: RunningFleet) -> None:
    ann, bob = register(breakable, "ann"), register(breakable, "bob")
    old = ann.create_room(room_version="11", room_alias_name="hive")
    others = [ann.create_room(), ann.create_room(preset="private_chat", invite=[bob.user_id])]
    for room in (old, others[0]):
        bob.ask("POST", f"/rooms/{quote(room)}/join", {})
    user = f"/user/{quote(bob.user_id)}"
    bob.ask("PUT", f"{user}/rooms/{quote(old)}/tags/u.work", {"order": 0.1})
    bob.ask("PUT", f"{user}/account_data/m.direct", {ann.user_id: [old]})
    new = ann.ask("POST", f"/rooms/{quote(old)}/upgrade", {"new_version": "12"})["replacement_room"]
    assert bob.ask("POST", f"/join/{quote('#hive:' + breakable.server_name)}", {})["room_id"] == new
    tags = wait_until(lambda: bob.ask("GET", f"{user}/rooms/{quote(new)}/tags")["tags"], "the tags were not copied")
    assert tags == {"u.work": {"order": 0.1}}
    wait_until(
        lambda: new in bob.ask("GET", f"{user}/account_data/m.direct")[ann.user_id], "the new room is not a direct chat"
    )

    proof = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "bob"}, "password": bob.password}
    assert bob.ask("POST", "/account/deactivate", {"auth": proof, "erase": True}) == {
        "id_server_unbind_result": "success"
    }
    assert bob.call("GET", "/account/whoami").status == 401

    def gone() -> bool:
        path = f"state/m.room.member/{quote(bob.user_id)}"
        states = [ann.call("GET", f"/rooms/{quote(room)}/{path}").json() for room in (old, new, *others)]
        return all(state["membership"] == "leave" for state in states)

    wait_until(gone, "bob is still in a room")
    wait_until(lambda: not _sql(breakable, "SELECT 1 FROM deactivations"), "the account has not been cleared")
    assert not _sql(breakable, "SELECT 1 FROM account_data WHERE user_id = $1", bob.user_id)
