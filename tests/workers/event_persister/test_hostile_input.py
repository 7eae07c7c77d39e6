"""Random hostile requests to every endpoint: they get a Matrix error, never a 500, and store no invalid event."""

import random
from typing import Any
from urllib.parse import quote

import pytest

from shared.core.room_versions import ROOM_VERSIONS
from tests.fix_servers import TestDatabase
from tests.rigs.persister import event_persister
from tests.workers.event_persister.test_random_rooms import replay

_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 2**60),
    *("", "x", "\x00", "@a:b", "#a:example.org", "!x:y", "$e", "join", "invite", "a" * 300, "😀"),
    *([], [1], [[[]]], [{}], ["@b:example.org"], [{"type": "m.room.topic", "content": {}}]),
    *({}, {"a": 1}, {"m.federate": 3}, {"users": {"@a:b": "9"}}),
)
_KEYS = (
    "additional_creators",
    "alias",
    "allow",
    "alt_aliases",
    "creation_content",
    "displayname",
    "events",
    "guest_access",
    "initial_state",
    "invite",
    "invite_3pid",
    "is_direct",
    "join_authorised_via_users_server",
    "join_rule",
    "membership",
    "name",
    "power_level_content_override",
    "preset",
    "reason",
    "redacts",
    "room_alias_name",
    "room_version",
    "third_party_invite",
    "third_party_signed",
    "topic",
    "user_id",
    "users",
    "users_default",
    "visibility",
)
_PARTS = (
    *("!x:y", "#a:example.org", "\x00", "\x1a", "/", "%", "..", "@a:b", "é", "a" * 256, "$x", "😀"),
    *("@alice:example.org", "@bob:example.org"),
    "m.room.aliases",
    "m.room.canonical_alias",
    "m.room.create",
    "m.room.guest_access",
    "m.room.join_rules",
    "m.room.member",
    "m.room.message",
    "m.room.power_levels",
    "m.room.redaction",
    "m.room.third_party_invite",
)


def _request(chance: random.Random, room_id: str) -> tuple[str, str, Any]:
    room, one, two = (quote(part, safe="") for part in (room_id, chance.choice(_PARTS), chance.choice(_PARTS)))
    action = chance.choice(("join", "leave", "forget", "invite", "kick", "ban", "unban"))
    method, path = chance.choice(
        (
            ("POST", "/createRoom"),
            ("PUT", f"/rooms/{room}/send/{one}/{two}"),
            ("PUT", f"/rooms/{room}/state/{one}/{two}"),
            ("PUT", f"/rooms/{room}/state/{one}"),
            ("PUT", f"/rooms/{room}/redact/{one}/{two}"),
            ("POST", f"/rooms/{room}/{action}"),
            ("POST", f"/{chance.choice(('join', 'knock'))}/{room}"),
        )
    )
    body: Any = {chance.choice(_KEYS): chance.choice(_VALUES) for _ in range(chance.randint(0, 4))}
    if chance.random() < 0.4:
        body["user_id"] = chance.choice(("@alice:example.org", "@bob:example.org", "@é\x1a:example.org", "@a:b.c"))
    if chance.random() < 0.3:
        body["membership"] = chance.choice(("join", "invite", "leave", "ban", "knock"))
    return method, path, body if chance.random() < 0.95 else chance.choice(_VALUES)


@pytest.mark.parametrize("seed", [1, 2])
async def test_hostile_requests_get_matrix_errors(postgres_module: TestDatabase, seed: int) -> None:
    chance = random.Random(seed)
    async with event_persister(postgres_module.dsn) as persister:
        users = [persister.user("alice"), persister.user("bob")]
        if seed == 1:
            persister.tokens.guests.add(users[1].user_id)
        rooms = {
            version: await users[0].create_room(preset="public_chat", room_version=version) for version in ROOM_VERSIONS
        }
        for _ in range(800):
            somewhere = chance.choice([*rooms.values(), *rooms.values(), chance.choice(_PARTS)])
            request = _request(chance, somewhere)
            answer = await chance.choice(users).call(*request)
            # 502: another server cannot be reached.
            assert answer.status < 500 or answer.status == 502, request
            assert answer.status == 200 or answer.errcode.startswith("M_"), request
        for version, room_id in rooms.items():
            assert await replay(persister, room_id, version) >= 6
