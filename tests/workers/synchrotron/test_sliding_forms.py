"""The examples of MSC4186 in both forms: the request is accepted, and the response has the example's shape."""

import json
from pathlib import Path
from typing import Any

import pytest

from shared.core.identifiers import RoomId
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import fleet
from tests.workers.synchrotron.sliding_client import DEPLOYED, MERGED, post

EXAMPLES = Path(__file__).parents[2] / "vectors" / "sliding_sync"
ROOM = "!sub1:bar"


def check_room(told: Any, fields: dict[str, str]) -> None:
    """Assert that every field belongs to the form and has its JSON type."""
    for name, value in told.items():
        assert type(value).__name__ == fields[name], name


@pytest.mark.parametrize(("path", "name"), [(MERGED, "merged"), (DEPLOYED, "deployed")])
async def test_example_of_each_form(postgres: TestDatabase, path: str, name: str) -> None:
    example = json.loads((EXAMPLES / f"{name}.json").read_text())
    async with fleet(postgres.dsn) as world:
        alice, bob, carol = (world.user(name) for name in ("alice", "bob", "carol"))
        room_id = await alice.writes.create_room(
            preset="public_chat",
            name="Alice and Bob",
            invite=[carol.user_id],
            initial_state=[{"type": "m.room.avatar", "content": {"url": "mxc://a/b"}}],
        )
        await bob.writes.act(room_id, "join")
        direct = await alice.writes.create_room(invite=[bob.user_id])
        await world.set_account_data(alice.user_id, RoomId(""), "m.direct", {bob.user_id: [direct]})
        request = json.loads(json.dumps(example["request"]).replace(ROOM, room_id))
        first = await post(alice, path, {**request, "room_subscriptions": {}})
        assert first.status == 200, first.body
        for body in ("A", "B"):
            await bob.writes.send(room_id, body)
        pos = {"pos": first.json["pos"]}
        answer = await (post(alice, path, {**request, **pos}) if path == MERGED else post(alice, path, request, **pos))
        expected = example["response"]
        assert set(answer.json) == set(expected)
        assert answer.json["lists"] == {"foo-list": {"count": 1}}
        told, room = answer.json["rooms"][room_id], expected["rooms"][ROOM]
        assert room.keys() <= told.keys()
        for key in ("name", "initial", "invited_count", "num_live"):
            assert told[key] == room[key], key
        assert [event["content"]["body"] for event in told["timeline"][-2:]] == ["A", "B"]
        assert {event["type"] for event in told["required_state"]} >= {"m.room.create", "m.room.avatar"}
        check_room(told, example["fields"])
        check_room(first.json["rooms"][direct], example["fields"])
        shown = {(event["type"], event["state_key"]) for event in first.json["rooms"][direct]["required_state"]}
        assert shown == {("m.room.create", "")} | {("m.room.member", user.user_id) for user in (alice, bob)}
        assert first.json["rooms"][direct]["is_dm"] is True
