"""POST /search, and the job that fills its index."""

from typing import Any

import pytest

from shared.core.identifiers import RoomId
from shared.core.search.event_text import indexed_text, searchable_text, split_words
from shared.storage.accounts.erased_users import set_user_erased
from shared.storage.fleet.background_steps import list_set_aside
from shared.storage.search.event_words import index_events
from tests.fix_servers import TestDatabase
from tests.rigs.requests import Answer
from tests.rigs.synchrotron import Client, World, fleet
from tests.spec_answers import check_answer
from tests.workers.synchrotron.stored_rooms import ALICE, store


async def index(world: World) -> int:
    """Run the job to its end, as if every writer had announced all its events. Return the number of steps."""
    await world.database.execute("""UPDATE heartbeats SET positions = '{"events": 1000000000}'""")
    steps = 1
    while await index_events(world.database):
        steps += 1
    return steps


async def search(client: Client, term: str, next_batch: str | None = None, **criteria: Any) -> Answer:
    body = {"search_categories": {"room_events": {"search_term": term, **criteria}}}
    return await client.post("/search", body, **({} if next_batch is None else {"next_batch": next_batch}))


async def found(client: Client, term: str, **criteria: Any) -> Any:
    answer = await search(client, term, **criteria)
    assert answer.status == 200, answer.body
    check_answer("search.yaml", "/search", "post", answer.json)
    return answer.json["search_categories"]["room_events"]


def texts(answer: Any) -> list[str]:
    return [result["result"]["content"].get("body", "") for result in answer["results"]]


_HTML = {"mimetype": "text/html", "body": "x"}


@pytest.mark.parametrize(
    ("kind", "state_key", "content", "expected"),
    [
        ("m.room.message", None, {"body": "hum"}, (0, "hum")),
        ("m.room.message", "", {"body": "hum"}, None),
        ("m.room.message", None, {"body": ["hum"]}, None),
        ("m.room.encrypted", None, {"body": "hum"}, None),
        ("m.room.name", "", {"name": "hive"}, (1, "hive")),
        ("m.room.name", None, {"name": "hive"}, None),
        ("m.room.topic", "", {"topic": "a", "m.topic": {"m.text": [_HTML, {"body": "b"}]}}, (2, "a\nb")),
        ("m.room.topic", "", {"topic": "a", "m.topic": {"m.text": [{"body": "a"}]}}, (2, "a")),
        ("m.room.topic", "", {"m.topic": 7}, None),
        ("m.room.topic", "", {"m.topic": {"m.text": [1, {"mimetype": "text/html"}]}}, None),
    ],
)
def test_searchable_events_and_keys(kind: str, state_key: str | None, content: Any, expected: Any) -> None:
    assert searchable_text(kind, state_key, content) == expected


def test_scripts_without_spaces_are_cut_into_pairs() -> None:
    assert split_words("東京タワー bees").split() == [
        "東",
        "京",
        "タ",
        "ワ",
        "ー",
        "東京",
        "京タ",
        "タワ",
        "ワー",
        "bees",
    ]
    assert split_words("東京タワー", is_query=True).split() == ["東京", "京タ", "タワ", "ワー"]
    assert split_words("東", is_query=True).split() == ["東"]
    assert split_words("a\x00B\ud800c").split() == ["a", "b", "c"]
    assert indexed_text("Bees 東京 fly") == (split_words("Bees 東京 fly"), "bees   fly")


async def test_words_of_several_languages_are_stemmed(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room_id = await alice.writes.create_room(name="The hive", topic="Honey\x00comb")
        for text in (
            "the bees were running home",
            "die Häuser der Bienen",
            "les abeilles travaillaient",
            "пчёлы летали над лугами",
            "蜜蜂が東京タワーにいる",
            "ผึ้งทำน้ำผึ้ง",
            "odd ' \\ & | ! ( ) : * <-> text",
        ):
            await alice.writes.send(room_id, text)
        await index(world)
        for term, expected in (
            ("RUN bee", "the bees"),
            ("the", "the bees"),
            ("haus biene", "die"),
            ("HÄUSER", "die"),
            ("travailler", "les"),
            ("лугам", "пчёлы"),
            ("東京", "蜜蜂"),
            ("タワー", "蜜蜂"),
            ("蜂", "蜜蜂"),
            ("น้ำผึ้ง", "ผึ้ง"),
            ("text", "odd"),
        ):
            (text,) = texts(await found(alice, term, keys=["content.body"]))
            assert text.startswith(expected), term
        for term in ("bees wasps", "京東", "nothing", "", " ' & | !", "\x00", "<->", "' 1'", f"' {10**6}' | bees"):
            assert texts(await found(alice, term)) == [], term
        for term, keys, event_type in (
            ("hive", ["content.name"], "m.room.name"),
            ("comb", ["content.topic"], "m.room.topic"),
        ):
            (result,) = (await found(alice, term, keys=keys))["results"]
            assert result["result"]["type"] == event_type and result["rank"] > 0
            assert (await found(alice, term, keys=["content.body"]))["count"] == 0
        assert (await found(alice, "RUN bee"))["highlights"] == ["run", "bee"]


async def test_order_groups_and_pages(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        rooms = [await alice.writes.create_room(preset="public_chat") for _ in range(2)]
        for n in range(6):
            await alice.writes.send(rooms[n % 2], f"bees {n} " + "bees " * (n == 2))
        await bob.writes.act(rooms[0], "join")
        await bob.writes.send(rooms[0], "bees of bob")
        await index(world)
        everything = await found(alice, "bees")
        assert everything["count"] == 7 and texts(everything)[0].startswith("bees 2")
        recent = await found(
            alice, "bees", order_by="recent", groupings={"group_by": [{"key": "room_id"}, {"key": "sender"}]}
        )
        assert texts(recent) == [
            "bees of bob",
            "bees 5 ",
            "bees 4 ",
            "bees 3 ",
            "bees 2 bees ",
            "bees 1 ",
            "bees 0 ",
        ]
        groups = recent["groups"]
        assert {room: len(group["results"]) for room, group in groups["room_id"].items()} == {
            rooms[0]: 4,
            rooms[1]: 3,
        }
        assert [group["order"] for group in groups["room_id"].values()] == [0, 1]
        assert set(groups["sender"]) == {alice.user_id, bob.user_id} and "next_batch" not in recent
        criteria: dict[str, Any] = {
            "order_by": "recent",
            "filter": {"limit": 3},
            "groupings": {"group_by": [{"key": "room_id"}]},
        }
        pages, token = [], None
        while True:
            answer = await search(alice, "bees", token, **criteria)
            page = answer.json["search_categories"]["room_events"]
            pages.append(page)
            token = page.get("next_batch")
            if token is None:
                break
        assert [text for page in pages for text in texts(page)] == texts(recent)
        # A group has its own pages, with the rest of that room.
        first = pages[0]["groups"]["room_id"][rooms[0]]
        rest = await search(alice, "bees", first["next_batch"], **criteria)
        assert texts(rest.json["search_categories"]["room_events"]) == ["bees 2 bees ", "bees 0 "]
        only = await found(alice, "bees", filter={"rooms": [rooms[1]], "senders": [alice.user_id]})
        assert len(only["results"]) == 3
        assert (await found(alice, "bees", filter={"not_rooms": rooms}))["count"] == 0
        assert (await found(alice, "bees", filter={"types": ["m.room.topic"]}))["count"] == 0
        assert (await found(alice, "bees", filter={"limit": 0}))["results"] == []
        for term, token, more, errcode in (
            ("wasps", pages[0]["next_batch"], criteria, "M_INVALID_PARAM"),
            ("bees", "x", {}, "M_INVALID_PARAM"),
            ("bees", "W10", {}, "M_INVALID_PARAM"),
            ("x" * 501, None, {}, "M_INVALID_PARAM"),
            (" ".join(str(n) for n in range(21)), None, {}, "M_INVALID_PARAM"),
            ("bees", None, {"order_by": "x"}, "M_BAD_JSON"),
            ("bees", None, {"keys": ["x"]}, "M_BAD_JSON"),
            ("bees", None, {"event_context": {"before_limit": -1}}, "M_BAD_JSON"),
            ("bees", None, {"groupings": {"group_by": [{"key": "x"}]}}, "M_BAD_JSON"),
            ("bees", None, {"filter": {"limit": "x"}}, "M_BAD_JSON"),
        ):
            answer = await search(alice, term, token, **more)
            assert (answer.status, answer.errcode) == (400, errcode), more
        assert (await alice.post("/search", {"search_categories": {}})).json == {"search_categories": {}}
        assert (await alice.post("/search", {})).errcode == "M_BAD_JSON"


async def test_search_finds_only_events_that_the_user_may_see(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, eve = (world.user(name) for name in ("alice", "bob", "eve"))
        room_id = await alice.writes.create_room(preset="public_chat")
        await alice.writes.put_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
        await alice.writes.send(room_id, "bees before")
        await bob.writes.act(room_id, "join")
        await alice.writes.send(room_id, "bees while")
        gone = (await alice.writes.send(room_id, "bees redacted")).event_id
        await bob.writes.act(room_id, "leave")
        await alice.writes.send(room_id, "bees after")
        await index(world)
        await alice.writes.redact(room_id, gone)
        for user, expected in (
            (alice, {"bees before", "bees while", "bees after"}),
            (bob, {"bees while"}),
            (eve, set()),
        ):
            answer = await found(user, "bees")
            assert (set(texts(answer)), answer["count"]) == (expected, len(expected)), user.user_id
        await index(world)
        assert await world.database.fetchval("SELECT count(*) FROM search_words WHERE words @@ 'redacted'") == 0
        await bob.writes.act(room_id, "join")
        await world.set_account_data(
            bob.user_id, RoomId(""), "m.ignored_user_list", {"ignored_users": {alice.user_id: {}}}
        )
        assert (await found(bob, "bees"))["count"] == 0
        await world.set_account_data(bob.user_id, RoomId(""), "m.ignored_user_list", {})
        # Later members see the events of an erased sender redacted, so their words are not found.
        await alice.writes.put_state(room_id, "m.room.history_visibility", {"history_visibility": "shared"})
        await alice.writes.send(room_id, "bees shared")
        await eve.writes.act(room_id, "join")
        await index(world)
        assert texts(await found(eve, "bees")) == ["bees shared"]
        await set_user_erased(world.database, alice.user_id, 1)
        assert (await found(eve, "bees"))["count"] == 0
        await world.database.execute("DELETE FROM erased_users")
        await eve.writes.act(room_id, "leave")
        await eve.writes.act(room_id, "forget")
        assert (await found(eve, "bees"))["count"] == 0
        assert (await found(alice, "bees"))["count"] == 4
        await alice.writes.put_state(room_id, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
        assert (await found(alice, "bees"))["count"] == 0


async def test_context_profiles_state_and_predecessors(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        old = await alice.writes.create_room(room_version="10", name="old")
        for text in ("one", "two", "bees", "three", "four"):
            await alice.writes.send(old, text)
        new = await alice.writes.create_room(
            room_version="10", creation_content={"predecessor": {"room_id": old, "event_id": "$x"}}
        )
        await index(world)
        asked = {"before_limit": 1, "after_limit": 1, "include_profile": True}
        answer = await found(alice, "bees", event_context=asked, include_state=True)
        (result,) = answer["results"]
        context = result["context"]
        assert [event["content"]["body"] for event in context["events_before"]] == ["two"]
        assert [event["content"]["body"] for event in context["events_after"]] == ["three"]
        assert set(context["profile_info"]) == {alice.user_id}
        for direction, token, expected in (("b", context["start"], "one"), ("f", context["end"], "four")):
            page = (await alice.room(old, "messages", dir=direction, limit=1, **{"from": token})).json
            assert [event["content"]["body"] for event in page["chunk"]] == [expected]
        state = {event["type"] for event in answer["state"][old]}
        assert {"m.room.name", "m.room.create", "m.room.member"} <= state
        assert "context" not in (await found(alice, "bees"))["results"][0]
        assert (await found(alice, "bees", filter={"rooms": [new]}))["count"] == 0
        with_old = await found(alice, "bees", filter={"rooms": [new]}, **{"skep.include_predecessors": True})
        assert with_old["count"] == 1


async def test_index_waits_for_writers_under_way_and_has_fetched_history(postgres: TestDatabase) -> None:
    async with store(postgres.dsn) as stored, fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room = stored.room()
        room.live(**room.member(ALICE, "join"))
        room.live(content={"body": "live bees"})
        room.history(2, content={"body": "old bees"})
        room.outlier(content={"body": "outlying bees"})
        await room.save()
        # No writer has announced its position yet: events that it may be committing must not be skipped.
        assert not await index_events(world.database)
        assert set(texts(await found(alice, "bees"))) == {"live bees", "old bees"}, "found all the same"
        await index(world)
        assert set(texts(await found(alice, "bees"))) == {"live bees", "old bees"}


async def test_long_messages_are_indexed_by_their_bytes(postgres: TestDatabase) -> None:
    """2,000 of them together would take longer than a statement may."""
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room = await alice.writes.create_room()
        for number in range(100):
            await alice.writes.send(room, f"bees{number} " + "word " * 4000)
        assert await index(world) >= 8, "256 KiB at a time"
        assert (await found(alice, "bees99"))["count"] == 1
        assert await world.database.fetchval("SELECT count(*) FROM search_words") == 100


async def test_unreadable_event_is_set_aside(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room = await alice.writes.create_room()
        for text in ("first bees", "broken bees", "last bees"):
            await alice.writes.send(room, text)
        [broken] = await world.database.fetch(
            "UPDATE events SET json = '{' WHERE convert_from(json, 'UTF8') LIKE '%broken bees%' RETURNING event_id"
        )
        await index(world)
        assert await world.database.fetchval("SELECT count(*) FROM search_words") == 2
        [aside] = await list_set_aside(world.database, 10)
        assert (aside.step, aside.item) == ("search index", broken["event_id"])


async def test_messages_are_found_at_once(postgres: TestDatabase) -> None:
    """The answer to a send comes first, then the search: the index need not have it yet."""
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room = await alice.writes.create_room(preset="public_chat", name="Bees")
        await bob.writes.act(room, "join")
        old = (await alice.writes.send(room, "old bees")).event_id
        await index(world)
        await alice.writes.send(room, "new bees")
        gone = (await alice.writes.send(room, "gone bees")).event_id
        assert (await alice.writes.redact(room, gone)).status == 200
        assert (await alice.writes.redact(room, old)).status == 200
        for who in (alice, bob):
            assert texts(await found(who, "bees", order_by="recent", keys=["content.body"])) == ["new bees"]
            assert (await found(who, "bees"))["count"] == 2, "the room's name too"
        await alice.writes.send(room, "newer bees")
        for indexed in (False, True):
            if indexed:
                await index(world)
            answer = await found(bob, "bees", order_by="recent", keys=["content.body"], filter={"limit": 1})
            assert (answer["count"], texts(answer)) == (2, ["newer bees"])
            page = await search(
                bob, "bees", answer["next_batch"], order_by="recent", keys=["content.body"], filter={"limit": 1}
            )
            assert texts(page.json["search_categories"]["room_events"]) == ["new bees"]
        assert (await found(world.user("eve"), "bees"))["count"] == 0


def test_words_are_the_same_in_every_normal_form() -> None:
    for text in ("\u00dcbung", "U\u0308bung", "u\u0308bung", "\u00fcBUNG"):
        assert split_words(text).split() == ["\u00fcbung"]
    assert split_words("Stra\u00dfe") == split_words("STRASSE") == "strasse"
    assert split_words("\uff46\uff55\uff4c\uff4c \ufb01") == "full fi"
