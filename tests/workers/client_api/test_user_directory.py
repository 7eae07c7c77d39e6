"""POST /user_directory/search, and the background job that fills the directory."""

from typing import Any

import pytest

from shared.config.sections import UserDirectory
from shared.core.identifiers import UserId
from shared.core.search.directory_words import directory_words, term_words, user_id_prefix
from shared.storage.search.user_directory import fill_directory
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import client_api, make_config
from tests.rigs.persister import User as RoomUser
from tests.rigs.synchrotron import World, fleet
from tests.rigs.worker import SERVER
from tests.spec_answers import check_answer
from tests.workers.synchrotron.devices import Person, person, writers


async def _fill(world: World) -> None:
    """Run the job to its end, as if every writer had reported a high position."""
    await world.database.execute("""UPDATE heartbeats SET positions = '{"events": 1000000000}'""")
    while await fill_directory(world.database, SERVER):
        pass


async def _search(searcher: Person, term: str, **more: Any) -> Any:
    answer = await searcher.writes.call("POST", "/user_directory/search", {"search_term": term, **more})
    assert answer.status == 200, answer.body
    check_answer("users.yaml", "/user_directory/search", "post", answer.json)
    return answer.json


async def _found(searcher: Person, term: str, **more: Any) -> list[str]:
    return [user["user_id"].partition(":")[0] for user in (await _search(searcher, term, **more))["results"]]


async def _set_profile(user: Person, name: str | None, field: str = "displayname") -> None:
    path = f"/profile/{user.writes.quoted}/{field}"
    call = user.writes.call
    answer = await (call("PUT", path, {field: name}) if name else call("DELETE", path))
    assert answer.status == 200, answer.body


def _rooms(user: Person) -> RoomUser:
    return user.reads.writes


@pytest.mark.parametrize(
    ("term", "names", "matches"),
    [
        ("bee", "Beehive", True),
        ("hive", "Beehive", False),
        ("anna kar", "Anna Karenina", True),
        ("kar anna", "Anna Karenina", True),
        ("anna zz", "Anna Karenina", False),
        ("jose", "José Ñandú", True),
        ("ÑANDÚ", "jose nandu", True),
        ("strasse", "Straße", True),
        ("東京", "東京タワー", True),
        ("タワ", "東京タワー", True),
        ("京東", "東京タワー", False),
        ("京", "東京タワー", True),
        ("น้ำ", "คนน้ำผึ้ง", True),
        ("김", "김철수", True),
        ("@id.wi", "", True),
        ("@id.with:exam", "", True),
        ("example", "", False),
        ("with", "", True),
    ],
)
def test_search_term_matches_words_by_prefix(term: str, names: str, matches: bool) -> None:
    known, wanted = directory_words(UserId("@id.with:example.org"), names), term_words(term)
    assert wanted and all(any(word.startswith(each) for word in known) for each in wanted) is matches


def test_search_words_are_alphanumeric_and_limited() -> None:
    for term in ("", " ", "!&|()':*", "\x00", "\ud800", "@:", "' | 'a"):
        assert all(word.isalnum() for word in term_words(term))
    assert user_id_prefix("@A:B") == "@a:b" and user_id_prefix("@a\x00:b") is None and user_id_prefix("a:b") is None
    assert len(directory_words(UserId("@x:y"), " ".join(map(str, range(1000))))) <= 40
    assert len(term_words(" ".join(map(str, range(1000))))) <= 8


@pytest.mark.parametrize("job_runs", [True, False])
async def test_only_visible_users_are_found_at_once(postgres: TestDatabase, job_runs: bool) -> None:
    """A change counts as soon as it is answered, whether or not the job has processed it."""

    async def fill(world: World) -> None:
        if job_runs:
            await _fill(world)

    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
        alice, bob, carol, dan = [await person(world, api, name) for name in ("alice", "bob", "carol", "dan")]
        await _set_profile(bob, "Bob the Beekeeper")
        await _set_profile(bob, "mxc://example.org/bee", "avatar_url")
        await _set_profile(dan, "Dan the Beekeeper")
        private = await _rooms(alice).create_room(invite=[bob.user_id])
        await fill(world)
        assert await _found(alice, "bee") == [], "invited only"
        await _rooms(bob).act(private, "join")
        [found] = (await _search(alice, "BEEK the"))["results"]  # memberships need no job
        assert found == {
            "user_id": bob.user_id,
            "display_name": "Bob the Beekeeper",
            "avatar_url": "mxc://example.org/bee",
        }
        assert await _found(bob, "ali") == ["@alice"] and await _found(bob, "bob") == []
        assert await _found(carol, "ali") == await _found(carol, "bee") == []
        # Public and world-readable rooms show their members to everyone, for as long as they are so.
        public = await _rooms(dan).create_room(preset="public_chat")
        await fill(world)
        assert await _found(carol, "beekeeper") == ["@dan"]
        assert await _found(dan, "beekeeper") == ["@dan"], "members of public rooms find themselves too"
        assert await _found(carol, "@dan:example.org") == ["@dan"] and await _found(carol, "@dan:other") == []
        await _rooms(dan).put_state(public, "m.room.join_rules", {"join_rule": "invite"})
        await fill(world)
        assert await _found(carol, "beekeeper") == await _found(dan, "beekeeper") == []
        await _rooms(dan).put_state(public, "m.room.history_visibility", {"history_visibility": "world_readable"})
        await fill(world)
        assert await _found(carol, "beekeeper") == ["@dan"]
        await _rooms(dan).act(public, "leave")
        assert await _found(carol, "beekeeper") == []
        # A display name for one room is not searched.
        content = {"membership": "join", "displayname": "Secret Nick"}
        await _rooms(bob).put_state(private, "m.room.member", content, bob.user_id)
        await fill(world)
        assert await _found(alice, "nick") == []
        await _set_profile(bob, None)
        await fill(world)
        assert await _found(alice, "beekeeper") == [] and await _found(alice, "bob") == ["@bob"]
        # A deactivated user is not found, from the answer on.
        await api.sql("UPDATE users SET deactivated = true WHERE user_id = $1", bob.user_id)
        assert await _found(alice, "bob") == []
        await fill(world)
        if job_runs:
            assert await api.sql("SELECT 1 FROM user_directory WHERE user_id = $1", bob.user_id) == []


async def test_results_are_ordered_and_limited(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
        alice, *others = [await person(world, api, name) for name in ("alice", "beeline", "bee", "beeman")]
        room_id = await _rooms(alice).create_room(preset="public_chat")
        for each in others:
            await _rooms(each).act(room_id, "join")
        await _set_profile(others[0], "")
        await _set_profile(others[1], "")
        await _set_profile(others[2], "Another")
        await _fill(world)
        # The exact word is first, then users with a display name.
        assert await _found(alice, "bee") == ["@bee", "@beeman", "@beeline"]
        answer = await _search(alice, "bee", limit=2)
        assert len(answer["results"]) == 2 and answer["limited"] is True
        assert (await _search(alice, "bee", limit=3))["limited"] is False
        assert await _search(alice, " !'") == {"results": [], "limited": False}
        for body, errcode in (
            ({"search_term": "x" * 513}, "M_INVALID_PARAM"),
            ({"search_term": "x", "limit": 0}, "M_INVALID_PARAM"),
            ({"search_term": 7}, "M_BAD_JSON"),
            ({"limit": 3}, "M_BAD_JSON"),
            ([], "M_BAD_JSON"),
        ):
            refused = await alice.writes.call("POST", "/user_directory/search", body)
            assert (refused.status, refused.errcode) == (400, errcode), body
        odd = await alice.writes.call("POST", "/user_directory/search", raw=b'{"search_term":"@\\u0000:\\ud83d"}')
        assert odd.status in (200, 400)


async def test_common_name_does_not_hide_users_in_shared_rooms(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
        alice, bob = [await person(world, api, name) for name in ("alice", "zz-john")]
        room_id = await _rooms(alice).create_room(preset="private_chat", invite=[bob.user_id])
        await _rooms(bob).act(room_id, "join")
        await world.database.execute(
            "INSERT INTO user_directory SELECT '@john' || n || ':x', NULL, NULL, array_to_tsvector(ARRAY['john'])"
            " FROM generate_series(1, 5100) n"
        )
        await _fill(world)
        assert await _found(alice, "john") == ["@zz-john"]


async def test_remote_users_and_earlier_local_users_are_added(postgres: TestDatabase) -> None:
    """Remote users come from memberships. The job adds local users who registered before the directory existed."""
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
        alice = await person(world, api, "alice")
        room_id = await _rooms(alice).create_room(preset="public_chat")
        # As if alice had registered before the triggers existed.
        await world.database.execute("DELETE FROM user_directory_queue")
        await _fill(world)
        assert len(await api.sql("SELECT 1 FROM user_directory")) == 1
        nid = await world.database.fetchval("SELECT room_nid FROM rooms WHERE room_id = $1", room_id)
        # As if a user of another server had joined.
        await world.database.execute(
            """
            UPDATE events SET json = replace(replace(convert_from(json, 'utf8'), '@alice:', '@remote:'),
              '"membership":"join"', '"displayname":"Rémi","membership":"join"')::bytea
            WHERE room_nid = $1 AND type = 'm.room.member'
            """,
            nid,
        )
        for table in ("state_changes", "current_state", "events"):
            await world.database.execute(
                f"UPDATE {table} SET state_key = '@remote:elsewhere.org' WHERE type = 'm.room.member'"
            )
        await world.database.execute("UPDATE memberships SET user_id = '@remote:elsewhere.org', is_local = false")
        await world.database.execute("UPDATE user_directory_progress SET position = 0")
        await _fill(world)
        assert (await _search(alice, "remi"))["results"] == [
            {"user_id": "@remote:elsewhere.org", "display_name": "Rémi"}
        ]
        # A moderator redacts the name. It goes, also if the directory is filled anew.
        member = await world.database.fetchval("SELECT event_id FROM events WHERE type = 'm.room.member'")
        assert (await _rooms(alice).redact(room_id, member)).status == 200
        for again in (False, True):
            if again:
                await world.database.execute("DELETE FROM user_directory WHERE user_id = '@remote:elsewhere.org'")
                await world.database.execute("UPDATE user_directory_progress SET position = 0")
            await _fill(world)
            assert await _found(alice, "remi") == []
            assert (await _search(alice, "@remote"))["results"] == [{"user_id": "@remote:elsewhere.org"}]
        search_all = make_config(user_directory=UserDirectory(search_all_users=True))
        async with client_api(postgres.dsn, search_all, "client_api-9") as open_worker:
            bob = await open_worker.register("bob")
            await _fill(world)
            answer = await bob.call("POST", "/user_directory/search", {"search_term": "alice"})
            assert [user["user_id"] for user in answer.json["results"]] == [alice.user_id]
            guest = await open_worker.register_guest()
            refused = await guest.call("POST", "/user_directory/search", {"search_term": "alice"})
            assert refused.errcode == "M_GUEST_ACCESS_FORBIDDEN"
