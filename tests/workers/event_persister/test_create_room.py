"""POST /createRoom: presets, overrides, the order of events, errors. Spec: client-server API, "Creation"."""

from typing import Any

import orjson
import pytest

from shared.core.identifiers import RoomId
from shared.core.slots import slot_of
from shared.storage.engine.number_blocks import NumberBlock
from tests.fix_servers import TestDatabase
from tests.rigs.persister import event_persister
from tests.rigs.worker import SERVER
from workers.event_persister.loading.push_rules import PushRules


async def _order(persister: Any, room_id: RoomId) -> list[str]:
    return [row["type"].removeprefix("m.room.") for row in await persister.timeline(room_id)]


async def test_create_room_order_of_events_and_overrides(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        before = persister.foundation.writer.statements
        room_id = await alice.create_room(
            visibility="public",
            room_alias_name="pub",
            name="The name",
            topic="The topic",
            invite=[bob.user_id, bob.user_id],
            creation_content={
                "m.federate": False,
                "creator": "@x:y",
                "room_version": "1",
                "type": "m.space",
            },
            initial_state=[
                {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}},
                {"type": "m.room.name", "content": {"name": "overridden"}},
                {"type": "org.example", "state_key": "k", "content": {"a": 1}},
            ],
            power_level_content_override={"invite": 0, "users_default": 5},
        )
        assert persister.foundation.writer.statements == before + 1
        assert await _order(persister, room_id) == [
            "create",
            "member",
            "power_levels",
            "canonical_alias",
            "join_rules",
            "guest_access",
            "history_visibility",
            "org.example",
            "name",
            "topic",
            "member",
        ]
        content = persister.content
        create = {"m.federate": False, "room_version": "12", "type": "m.space"}
        assert await content(room_id, "m.room.create") == create
        assert await content(room_id, "m.room.join_rules") == {"join_rule": "public"}
        assert await content(room_id, "m.room.guest_access") == {"guest_access": "forbidden"}
        assert await content(room_id, "m.room.history_visibility") == {"history_visibility": "joined"}
        assert await content(room_id, "m.room.name") == {"name": "The name"}
        topic = await content(room_id, "m.room.topic")
        assert topic["topic"] == topic["m.topic"]["m.text"][0]["body"] == "The topic"
        assert await content(room_id, "m.room.canonical_alias") == {"alias": f"#pub:{SERVER}"}
        levels = await content(room_id, "m.room.power_levels")
        assert (levels["invite"], levels["users_default"], levels["users"]) == (0, 5, {})
        assert levels["events"]["m.room.tombstone"] > 100
        [room] = await persister.sql("SELECT * FROM rooms WHERE room_id = $1", room_id)
        assert room["is_public"] and room["creator"] == alice.user_id
        taken = await bob.call("POST", "/createRoom", {"room_alias_name": "pub"})
        assert (taken.status, taken.errcode) == (400, "M_ROOM_IN_USE")


@pytest.mark.parametrize("version", ["11", "12"])
async def test_trusted_private_chat_gives_invitees_full_power(postgres_module: TestDatabase, version: str) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room(
            preset="trusted_private_chat",
            invite=[bob.user_id],
            room_version=version,
            creation_content={"additional_creators": ["@carol:example.org"]} if version == "12" else {},
        )
        create = await persister.content(room_id, "m.room.create")
        levels = await persister.content(room_id, "m.room.power_levels")
        if version == "12":
            assert create["additional_creators"] == ["@carol:example.org", bob.user_id]
            assert levels["users"] == {}
        else:
            assert levels["users"] == {alice.user_id: 100, bob.user_id: 100}
        await bob.act(room_id, "join")
        assert (await bob.put_state(room_id, "m.room.power_levels", {**levels, "kick": 90})).status == 200


async def test_new_room_id_has_a_slot_of_this_persister(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn, takes=lambda slot: slot % 7 == 3) as persister:
        alice = persister.user("alice")
        seen = set()
        for version in ("10", "12") * 10:
            room_id = await alice.create_room(room_version=version)
            assert slot_of(room_id) % 7 == 3
            seen.add(room_id)
        assert len(seen) == 20
        persister.slots.takes = lambda slot: False
        assert (await alice.call("POST", "/createRoom", {})).status == 503


BAD: list[tuple[Any, str]] = [
    ([], "M_BAD_JSON"),
    ({"preset": "best_chat"}, "M_BAD_JSON"),
    ({"visibility": 3}, "M_BAD_JSON"),
    ({"room_version": "99"}, "M_UNSUPPORTED_ROOM_VERSION"),
    ({"room_version": 12}, "M_BAD_JSON"),
    ({"room_alias_name": ""}, "M_INVALID_PARAM"),
    ({"room_alias_name": "a:b"}, "M_INVALID_PARAM"),
    ({"room_alias_name": "a" * 300}, "M_INVALID_PARAM"),
    ({"room_alias_name": "a\x00b"}, "M_INVALID_PARAM"),
    ({"invite": ["bob"]}, "M_INVALID_PARAM"),
    ({"invite": "bob"}, "M_BAD_JSON"),
    ({"invite": [f"@u{n}:{SERVER}" for n in range(1000)]}, "M_INVALID_PARAM"),
    ({"initial_state": [{"content": {}}]}, "M_BAD_JSON"),
    ({"initial_state": [{"type": "m.room.create", "content": {}}]}, "M_INVALID_ROOM_STATE"),
    ({"initial_state": [{"type": "a", "content": {"x": 1.5}}]}, "M_BAD_JSON"),
    ({"initial_state": [{"type": "a" * 300, "content": {}}]}, "M_TOO_LARGE"),
    ({"power_level_content_override": {"users_default": "x"}}, "M_BAD_JSON"),
    ({"power_level_content_override": {"users": {f"@alice:{SERVER}": 50}}}, "M_INVALID_ROOM_STATE"),
    ({"creation_content": {"additional_creators": ["nobody"]}}, "M_INVALID_PARAM"),
    (
        {
            "creation_content": {"additional_creators": [{}]},
            "preset": "trusted_private_chat",
            "invite": ["@b:example.org"],
        },
        "M_INVALID_PARAM",
    ),
    ({"name": "n" * 70_000}, "M_TOO_LARGE"),
    (
        {"room_version": "11", "power_level_content_override": {"users": {}}, "name": "x"},
        "M_INVALID_ROOM_STATE",
    ),
]


async def test_bad_create_room_request_stores_nothing(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        before = await persister.sql("SELECT count(*) FROM rooms")
        for body, errcode in BAD:
            answer = await alice.call("POST", "/createRoom", body)
            assert (answer.errcode, answer.status // 100) == (errcode, 4), body
        assert (await alice.call("POST", "/createRoom", raw=b"{")).errcode == "M_NOT_JSON"
        assert await persister.sql("SELECT count(*) FROM rooms") == before
        null = {"name": None, "invite": None, "preset": None, "room_version": None, "topic": None}
        assert (await alice.call("POST", "/createRoom", null)).status == 200


async def test_initial_state_can_set_power_levels(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        levels = {"users": {alice.user_id: 100}, "events_default": 50}
        room_id = await alice.create_room(
            room_version="10", initial_state=[{"type": "m.room.power_levels", "content": levels}]
        )
        assert await persister.content(room_id, "m.room.power_levels") == levels
        assert (await _order(persister, room_id))[-1] == "power_levels"  # after the default ones
        rows = await persister.timeline(room_id)
        assert orjson.loads(rows[0]["json"])["content"]["creator"] == alice.user_id


async def test_creator_can_give_up_power_in_initial_state(postgres_module: TestDatabase) -> None:
    """Levels of `initial_state` come after the preset's events, and before the name and the invites."""
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        levels = {"users": {bob.user_id: 100}, "invite": 0, "state_default": 50}
        state = [{"type": "m.room.power_levels", "content": levels}]
        room_id = await alice.create_room(
            room_version="11",
            invite=[bob.user_id],
            initial_state=state,
            power_level_content_override={"users_default": 7},
        )
        assert await persister.content(room_id, "m.room.power_levels") == levels
        refused = await alice.call("POST", "/createRoom", {"room_version": "11", "name": "n", "initial_state": state})
        assert (refused.status, refused.errcode) == (400, "M_INVALID_ROOM_STATE")


async def test_creator_in_power_levels_of_version_12(postgres_module: TestDatabase) -> None:
    """An override that only repeats the creator's power is dropped. Other mistakes get an error with the creator."""
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room(
            room_version="12", power_level_content_override={"users": {alice.user_id: 100, bob.user_id: 60}}
        )
        assert (await persister.content(room_id, "m.room.power_levels"))["users"] == {bob.user_id: 60}
        users = {"users": {alice.user_id: 100}}
        for body in (
            {"power_level_content_override": {"users": {alice.user_id: 50}}},
            {"initial_state": [{"type": "m.room.power_levels", "content": users}]},
        ):
            answer = await alice.call("POST", "/createRoom", {"room_version": "12", **body})
            assert (answer.status, answer.errcode) == (400, "M_INVALID_ROOM_STATE")
            said = f"creator {alice.user_id} must not appear in users of m.room.power_levels"
            assert answer.json["error"].endswith(said)


async def test_canonical_alias_in_initial_state_must_point_to_the_room(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        await alice.create_room(room_alias_name="taken")
        for content, errcode in (
            ({"alias": f"#taken:{SERVER}"}, "M_BAD_ALIAS"),
            ({"alias": f"#none:{SERVER}"}, "M_BAD_ALIAS"),
            ({"alt_aliases": [f"#taken:{SERVER}"]}, "M_BAD_ALIAS"),
            ({"alias": "nonsense"}, "M_INVALID_PARAM"),
            ({"alias": 5}, "M_BAD_JSON"),
        ):
            state = [{"type": "m.room.canonical_alias", "content": content}]
            answer = await alice.call("POST", "/createRoom", {"initial_state": state, "room_alias_name": "own"})
            assert (answer.status, answer.errcode) == (400, errcode), content
        named: dict[str, Any] = {"alias": f"#own:{SERVER}", "alt_aliases": [f"#own:{SERVER}"]}
        first = [{"type": "m.room.canonical_alias", "content": named}]
        room_id = await alice.create_room(initial_state=first, room_alias_name="own")
        assert await persister.content(room_id, "m.room.canonical_alias") == named
        assert (await _order(persister, room_id)).count("canonical_alias") == 1


async def test_event_numbers_suffice_when_other_requests_take_them_meanwhile(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading push rules waits, and other requests use up the block of numbers."""
    blocks: list[NumberBlock] = []
    reserve, load = NumberBlock.reserve, PushRules.load

    async def noted(block: NumberBlock, count: int) -> None:
        blocks.append(block)
        await reserve(block, count)

    async def slow_load(*arguments: Any) -> None:
        await load(*arguments)
        for block in blocks:
            block._next = block._end

    monkeypatch.setattr(NumberBlock, "reserve", noted)
    monkeypatch.setattr(PushRules, "load", slow_load)
    async with event_persister(postgres_module.dsn) as persister:
        room_id = await persister.user("alice").create_room(preset="public_chat")
        assert (await _order(persister, room_id))[0] == "create"
    assert blocks
