"""Nonsense of every kind at every endpoint: a Matrix error, never a 500, and nothing stored that breaks a rule."""

import random
from typing import Any
from urllib.parse import quote

import pytest

from shared.core.room_versions import ROOM_VERSIONS
from tests.fix_servers import TestDatabase
from tests.rigs.persister import event_persister
from tests.workers.event_persister.test_random_rooms import replay

_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 2**60, "", "x", "\x00", "@a:b", "#a:example.org", "!x:y", "$e", [], [1], {}, {"a": 1},
    "join", "invite", "a" * 300, "😀", [[[]]], [{}], ["@b:example.org"], {"m.federate": 3}, {"users": {"@a:b": "9"}},
    [{"type": "m.room.topic", "content": {}}],
)  # fmt: skip
_KEYS = (
    "user_id", "reason", "membership", "visibility", "room_alias_name", "name", "topic", "invite", "invite_3pid",
    "room_version", "creation_content", "initial_state", "preset", "is_direct", "power_level_content_override",
    "third_party_signed", "alias", "alt_aliases", "redacts", "users", "users_default", "events", "join_rule", "allow",
    "guest_access", "additional_creators", "displayname", "third_party_invite", "join_authorised_via_users_server",
)  # fmt: skip
_PARTS = (
    "!x:y", "#a:example.org", "\x00", "\x1a", "/", "%", "..", "@a:b", "é", "a" * 256, "$x", "😀", "m.room.message",
    "m.room.redaction", "m.room.member", "m.room.power_levels", "m.room.canonical_alias", "m.room.join_rules",
    "m.room.guest_access", "m.room.create", "m.room.aliases", "m.room.third_party_invite", "@alice:example.org",
    "@bob:example.org",
)  # fmt: skip


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
async def test_hostile_requests(postgres_module: TestDatabase, seed: int) -> None:
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
            # 502: a user of another server cannot be reached.
            assert answer.status < 500 or answer.status == 502, request
            assert answer.status == 200 or answer.errcode.startswith("M_"), request
        for version, room_id in rooms.items():
            assert await replay(persister, room_id, version) >= 6
