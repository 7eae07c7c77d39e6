"""The members of large rooms in flat arrays: as a dictionary, smaller, and in a room that is in use."""

import base64
import hashlib
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fix_servers import TestDatabase
from tests.rigs.persister import event_persister
from tests.workers.event_persister.graph_rig import check_stored, forget_rooms
from workers.event_persister.loading import rooms_in_memory
from workers.event_persister.room import room_state
from workers.event_persister.room.drafts import StateEntry
from workers.event_persister.room.member_table import MemberTable


def entry(number: int, membership: str | None = "join", *, odd: bool = False) -> StateEntry:
    digest = hashlib.sha256(b"%d" % number).digest()
    event_id = f"$odd{number}:a.example" if odd else "$" + base64.urlsafe_b64encode(digest).decode()[:43]
    return StateEntry(number, event_id, membership)  # type: ignore[arg-type]


users = st.one_of(st.integers(0, 30).map("@u{}:a.example".format), st.sampled_from(["", "@ü:b", "@u:" + "x" * 300]))
memberships = st.sampled_from(["join", "leave", "ban", "invite", "knock", None, "odd one"])
changes = st.tuples(users, st.one_of(st.none(), st.tuples(st.integers(0, 2**60), memberships, st.booleans())))


@settings(max_examples=100, deadline=None)
@given(changes=st.lists(changes, max_size=80), looked_at=st.lists(users, max_size=20))
def test_table_equals_a_dictionary(
    changes: list[tuple[str, tuple[int, str | None, bool] | None]], looked_at: list[str]
) -> None:
    table, expected = MemberTable(), dict[str, StateEntry]()
    for user_id, change in changes:
        if change is None:
            table.pop(user_id)
            expected.pop(user_id, None)
        else:
            number, membership, odd = change
            table.put(user_id, entry(number, membership, odd=odd))
            expected[user_id] = entry(number, membership, odd=odd)
        for looked in (user_id, *looked_at):
            assert table.get(looked) == table.read(looked) == expected.get(looked)
    assert dict(table.items()) == expected and len(table) == len(expected)
    assert set(table.user_ids()) == set(expected)
    for membership in ("join", "leave", "odd one", "unknown"):
        found = sorted(table.with_membership(membership))
        assert found == sorted(user_id for user_id, one in expected.items() if one.membership == membership)


def test_table_takes_a_third_of_a_dictionary() -> None:
    members = [(f"@user{number}:server{number % 500}.example.org", entry(number)) for number in range(20_000)]
    tracemalloc.start()
    table = MemberTable()
    for user_id, one in members:
        table.put(user_id, one)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{used / len(members):.0f} bytes a member, {table.size_bytes / len(members):.0f} by its own measure")
    assert used / len(members) < 450 / 3
    assert 0.7 * used < table.size_bytes < 1.4 * used


@pytest.mark.parametrize("loaded", [False, True])
async def test_large_room_is_written_like_any_other(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch, loaded: bool
) -> None:
    """It becomes large while it is in memory, or is when it is read."""
    monkeypatch.setattr(room_state, "LARGE_ROOM", 10)
    monkeypatch.setattr(rooms_in_memory, "LARGE_ROOM", 10)
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room(preset="public_chat")
        members = [persister.user(f"u{number}") for number in range(12)]
        for number, member in enumerate(members):
            assert (await member.act(room_id, "join")).status == 200
            if loaded and number == 8:
                forget_rooms(persister)
        banned, gone, *others = members
        assert (await alice.act(room_id, "ban", {"user_id": banned.user_id})).status == 200
        assert (await gone.act(room_id, "leave")).status == 200
        assert (await banned.act(room_id, "join")).status == 403
        assert (await gone.send(room_id, "not in it")).status == 403
        assert (await gone.act(room_id, "join")).status == 200
        assert (await gone.send(room_id, "back")).status == 200
        for member in others:
            assert (await member.send(room_id, "hi")).status == 200
        await check_stored(persister, room_id)
