"""A room's history in order: tokens, pages in both directions, gaps, and states of branches."""

import json
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.core.errors import MatrixError
from shared.core.filters import EventFilter, parse_room_event_filter
from shared.core.history_point import START, HistoryPoint, gap_start, point_after
from shared.core.identifiers import UserId
from shared.rooms import history_page
from shared.rooms.history_page import Filled, HistoryPages, StoredHistory
from shared.rooms.history_tokens import format_point, parse_point
from shared.rooms.room_view import load_branches, open_room
from shared.storage.events import timeline
from shared.storage.events.batch import REJECTED, SOFT_FAILED
from shared.storage.events.timeline import RoomRecord, get_timeline_event
from shared.storage.rooms import for_reader, snapshots
from shared.storage.rooms.snapshots import get_keys_at_snapshots, get_state_at_snapshot
from tests.fix_servers import TestDatabase
from tests.workers.synchrotron.stored_rooms import ALICE, MEMBER, VISIBILITY, Store, StoredRoom, store

BOB, CAROL = UserId("@bob:remote"), UserId("@carol:remote")
ALL = EventFilter()
places = st.builds(
    lambda ordinal, back: gap_start(ordinal) if back is None else HistoryPoint(ordinal, -back),
    st.integers(1, 10**18 - 1),
    st.one_of(st.none(), st.integers(0, 2**31 - 2)),
)


@given(places, places)
def test_point_tokens_keep_points_and_their_order(one: HistoryPoint, other: HistoryPoint) -> None:
    assert parse_point(format_point(*one)) == one
    assert (format_point(*one) == format_point(*other)) == (one == other)
    assert one >= START
    if not one.starts_gap:
        after = point_after(one)
        assert one < after
        assert not (one < other < after)  # no event ever lies between an event and the point after it


@pytest.mark.parametrize(
    "token",
    [
        "",
        "p1",
        "p1-",
        "p1-01",
        "p1--1",
        "p1-+1",
        "p1-1-1",
        "p1-1 ",
        "p1-1\n",
        "p1-٣",
        "p1-1" + "0" * 18,
        "p2-1",
        "p2-0-1",
        "p2-1-",
        "p2-1-01",
        "p2-1--1",
        "p2-1-2147483647",
        "p2-1-99999999999",
        "p2-1-1-1",
        "p3-1",
        "P1-1",
        "p2--1-1",
    ],
)
def test_other_tokens_are_refused(token: str) -> None:
    with pytest.raises(MatrixError) as raised:
        parse_point(token)
    assert raised.value.errcode == "M_INVALID_PARAM"


def joined(room: StoredRoom, **fields: Any) -> str:
    return room.live(**room.member(ALICE, "join", **fields))


async def walk(
    stored: Store,
    pages: HistoryPages,
    room: StoredRoom,
    limit: int,
    wanted: EventFilter = ALL,
    *,
    back: bool,
    start: HistoryPoint | None = None,
    stop: HistoryPoint | None = None,
    user_id: UserId = ALICE,
) -> list[str]:
    """Return the ids on all pages from a point on, each page read with a token."""
    found: list[str] = []
    for _ in range(300):
        view = await open_room(stored.database, room.room_id, user_id)
        if back:
            page = await pages.back(view, start or view.end_point, limit, wanted, stop=stop or START)
        else:
            page = await pages.forward(view, start or view.start_point, limit, wanted, stop=stop)
        found += [event.event_id for event in page.events]
        assert len(page.events) <= limit
        if not page.more:
            return found
        assert page.next_point != start, "a page that does not move"
        start = parse_point(format_point(*page.next_point))
    raise AssertionError("the pages do not end")


plans = st.lists(
    st.one_of(
        st.tuples(st.just("live"), st.sampled_from(("m.room.message", "m.room.name", "x"))),
        st.tuples(st.just("history"), st.integers(1, 8)),
        st.tuples(st.just("gap"), st.integers(1, 8)),
        st.tuples(st.just("hidden"), st.sampled_from((SOFT_FAILED, REJECTED))),
    ),
    max_size=40,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=plans, limit=st.integers(1, 7), only=st.sampled_from(("", "m.room.message", "m.*")), data=st.data())
async def test_pages_equal_slices_of_a_list(
    postgres_module: TestDatabase, plan: list[tuple[str, Any]], limit: int, only: str, data: st.DataObject
) -> None:
    async with store(postgres_module.dsn) as stored:
        room = stored.room()
        joined(room)
        types = {room.ordered()[0]: MEMBER}
        for what, value in plan:
            if what == "live":
                types[room.live(type=value)] = value
            elif what == "history":
                types[room.history(value)] = "m.room.message"
            elif what == "gap":
                room.gap(value)
            else:
                room.outlier(status=value)
        # History and gaps lie before live events only.
        while room.ordinal < 8:
            types[room.live()] = "m.room.message"
        await room.save()
        wanted = parse_room_event_filter({"types": [only]}) if only else ALL
        order = room.ordered()
        passing = [each for each in order if not only or types[each] == only or (only == "m.*" and types[each] != "x")]
        ends = st.one_of(
            st.none(), st.builds(gap_start, st.integers(1, 9)), st.sampled_from(sorted(room.places.values()))
        )
        start, stop = data.draw(ends, "start"), data.draw(ends, "stop")
        pages = HistoryPages(stored.database, StoredHistory())
        back = await walk(stored, pages, room, limit, wanted, back=True, start=start, stop=stop)
        between = [
            each
            for each in passing
            if (start is None or room.places[each] < start) and (stop is None or room.places[each] >= stop)
        ]
        assert back == between[::-1]
        forward = await walk(stored, pages, room, limit, wanted, back=False, start=start, stop=stop)
        assert forward == [
            each
            for each in passing
            if (start is None or room.places[each] >= start) and (stop is None or room.places[each] < stop)
        ]


async def test_empty_page_is_not_the_end(postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_page, "_PAGE", 2)
    monkeypatch.setattr(history_page, "_MAX_PAGES", 2)
    async with store(postgres_module.dsn) as stored:
        room = stored.room()
        joined(room)
        first = room.live(type="x")
        for _ in range(9):
            room.live()
        await room.save()
        pages, wanted = HistoryPages(stored.database, StoredHistory()), parse_room_event_filter({"types": ["x"]})
        view = await open_room(stored.database, room.room_id, ALICE)
        page = await pages.back(view, view.end_point, 5, wanted)
        assert (page.events, page.more) == ([], True)
        assert await walk(stored, pages, room, 5, wanted, back=True) == [first]


class Elsewhere:
    """Another server with missing events: by anchor, how many it sends on each request."""

    def __init__(self, room: StoredRoom, has: dict[int, list[int]]) -> None:
        self.room = room
        self.has = has
        self.asked: list[int] = []
        self.is_away = False

    async def fill(self, room: RoomRecord, anchor: int) -> Filled:
        assert room.room_id == self.room.room_id
        self.asked.append(anchor)
        if self.is_away:
            return Filled.NOT_NOW
        if not self.has.get(anchor):
            return Filled.NO_MORE
        for _ in range(self.has[anchor].pop(0)):
            self.room.history(anchor)
        await self.room.save()
        return Filled.MORE


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_gaps_are_filled_while_a_page_goes_back(postgres_module: TestDatabase, limit: int) -> None:
    async with store(postgres_module.dsn) as stored:
        room = stored.room()
        joined(room)
        for _ in range(9):
            room.live()
        room.history(3)
        for anchor in (1, 3, 7):
            room.gap(anchor)
        await room.save()
        source = Elsewhere(room, {1: [2], 3: [1, 2]})
        found = await walk(stored, HistoryPages(stored.database, source), room, limit, back=True)
        assert found == room.ordered()[::-1]
        assert len(found) == 10 + 1 + 2 + 3
        assert source.asked == [7, 3, 3, 3, 1, 1], "the open edge moves with each filling; a refusal is final"
        # A page forward fills no gap: it leads to known events.
        assert await walk(stored, HistoryPages(stored.database, source), room, limit, back=False) == room.ordered()
        assert len(source.asked) == 6


@pytest.mark.parametrize("limit", [2, 100])
async def test_page_ends_before_a_gap_that_cannot_be_filled_now(postgres_module: TestDatabase, limit: int) -> None:
    """The client comes back to the same place later, and misses nothing."""
    async with store(postgres_module.dsn) as stored:
        room = stored.room()
        joined(room)
        for _ in range(4):
            room.live()
        room.history(3)
        room.gap(3)
        await room.save()
        source = Elsewhere(room, {3: [2]})
        pages = HistoryPages(stored.database, source)
        view = await open_room(stored.database, room.room_id, ALICE)
        source.is_away = True
        shown: list[str] = []
        point, more = view.end_point, True
        while more and len(shown) < 4:
            page = await pages.back(view, point, limit, ALL)
            shown += [event.event_id for event in page.events]
            point, more = page.next_point, page.more
        assert shown == room.ordered()[:1:-1], "down to the history that is here"
        page = await pages.back(view, point, limit, ALL)
        assert (page.events, page.next_point, page.more) == ([], point, True), "it waits before the gap"
        source.is_away = False
        rest = await walk(stored, pages, room, limit, back=True, start=point)
        assert shown + rest == room.ordered()[::-1]
        assert len(rest) == 2 + 2, "what was fetched, and what lies behind the gap"


async def test_page_asks_only_for_the_gaps_that_it_needs(postgres_module: TestDatabase) -> None:
    async with store(postgres_module.dsn) as stored:
        room = stored.room()
        joined(room)
        for _ in range(5):
            room.live()
        room.history(4)
        room.gap(4)
        await room.save()
        source = Elsewhere(room, {})
        pages = HistoryPages(stored.database, source)
        for start, stop, asked in (
            (HistoryPoint(6), HistoryPoint(4, -1), []),  # ends within the history in the gap
            (HistoryPoint(6), gap_start(4), [4]),  # ends at the far side of the gap
            (gap_start(4), None, []),  # begins there
            (HistoryPoint(4, -1), None, [4]),
        ):
            source.asked.clear()
            await walk(stored, pages, room, 10, back=True, start=start, stop=stop)
            assert source.asked == asked, (start, stop)
        # The two wanted events lie before the edge of the gap.
        source.asked.clear()
        view = await open_room(stored.database, room.room_id, ALICE)
        await pages.back(view, HistoryPoint(5), 2, ALL)
        assert source.asked == []


async def test_one_page_tries_a_limited_number_of_gaps(postgres_module: TestDatabase) -> None:
    async with store(postgres_module.dsn) as stored:
        room = stored.room()
        joined(room)
        for _ in range(29):
            room.live()
        for anchor in range(1, 31):
            room.gap(anchor)
        await room.save()
        source = Elsewhere(room, {})
        view = await open_room(stored.database, room.room_id, ALICE)
        page = await HistoryPages(stored.database, source).back(view, view.end_point, 100, ALL)
        assert page.more and 0 < len(page.events) < 10
        assert len(source.asked) == 5
        found = await walk(stored, HistoryPages(stored.database, source), room, 100, back=True)
        assert found == room.ordered()[::-1]
        assert source.asked[5:] == list(range(30, 0, -1)), "each gap once on the way back"


async def test_gaps_without_events_between_them_are_passed(postgres_module: TestDatabase) -> None:
    async with store(postgres_module.dsn) as stored:
        room = stored.room()
        joined(room)
        room.ordinal = 20  # also if no event between is shown
        room.live()
        for anchor in range(1, 20):
            room.gap(anchor)
        await room.save()
        source = Elsewhere(room, {})
        assert await walk(stored, HistoryPages(stored.database, source), room, 10, back=True) == room.ordered()[::-1]
        assert source.asked == list(range(19, 0, -1))


async def test_states_at_events_of_branches(postgres_module: TestDatabase) -> None:
    async with store(postgres_module.dsn) as stored:
        room = stored.room()
        create = room.live(type="m.room.create", state_key="", sender=BOB)
        first = room.live(type="m.room.name", state_key="", content={"name": "first"})
        bob = room.live(**room.member(BOB, "join"))
        topic = room.live(type="m.room.topic", state_key="")
        second = room.live(type="m.room.name", state_key="", content={"name": "second"})
        branch = room.outlier(type="m.room.name", state_key="", content={"name": "branch"})
        gone = room.outlier(**room.member(BOB, "leave"))
        root = room.snapshot(4, [branch], [bob])  # before the topic
        grown = room.snapshot(0, [gone], parent=root)
        back = room.snapshot(0, [first], parent=grown)
        bare = room.snapshot(1, [create])
        await room.save()

        async def state(nid: int) -> set[str]:
            return {row.event_id for row in await get_state_at_snapshot(stored.database, room.room_nid, nid)}

        assert await state(root) == {create, branch}
        assert await state(grown) == {create, branch, gone}
        assert await state(back) == {create, first, gone}
        assert await state(bare) == {create}
        assert await state(10**9) == set()
        ids = {nid: event_id for event_id, nid in room.nids.items()}
        name, member, topics = ("m.room.name", ""), (MEMBER, BOB), ("m.room.topic", "")
        held = await get_keys_at_snapshots(
            stored.database, room.room_nid, [root, grown, back, bare], [name, member, topics]
        )
        assert {nid: {key: ids[event] for key, event in keys.items()} for nid, keys in held.items()} == {
            root: {name: branch},
            grown: {name: branch, member: gone},
            back: {name: first, member: gone},
            bare: {},
        }
        assert {topic, second} <= set(room.places)


snapshot_steps = st.lists(
    st.tuples(st.integers(0, 30), st.sets(st.integers(0, 11), max_size=3), st.sets(st.integers(0, 3), max_size=2)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.lists(st.integers(0, 3), max_size=6), base=st.integers(1, 7), steps=snapshot_steps)
async def test_states_of_random_branches_equal_a_dictionary(
    postgres_module: TestDatabase, line: list[int], base: int, steps: list[tuple[int, set[int], set[int]]]
) -> None:
    """steps: (which earlier snapshot is the parent, events to add by number, keys that leave)."""
    async with store(postgres_module.dsn) as stored:
        room = stored.room()
        state: dict[tuple[str, str], str] = {}
        for ordinal, key in enumerate(line, start=1):
            event_id = room.live(type="k", state_key=str(key))
            if ordinal < base:
                state["k", str(key)] = event_id
        spare = [room.outlier(type="k", state_key=str(number % 4)) for number in range(12)]
        nids: list[int] = []
        states: list[dict[tuple[str, str], str]] = []
        for parent, added, removed in steps:
            index = parent % len(nids) if nids else None
            now = dict(state if index is None else states[index])
            put = {("k", str(number % 4)): spare[number] for number in sorted(added)}
            out = [now[key] for key in (("k", str(number)) for number in removed) if key in now and key not in put]
            now = {key: event for key, event in now.items() if event not in out} | put
            nids.append(room.snapshot(base, list(put.values()), out, None if index is None else nids[index]))
            states.append(now)
        await room.save()
        keys = [("k", str(number)) for number in range(4)]
        held = await get_keys_at_snapshots(stored.database, room.room_nid, nids, keys)
        for nid, wanted in zip(nids, states, strict=True):
            rows = await get_state_at_snapshot(stored.database, room.room_nid, nid)
            assert sorted(row.event_id for row in rows) == sorted(wanted.values())
            assert held[nid] == {key: room.nids[event] for key, event in wanted.items()}


async def test_state_at_the_event_decides_its_visibility(postgres_module: TestDatabase) -> None:
    async with store(postgres_module.dsn) as stored:
        room = stored.room()
        room.live(type="m.room.create", state_key="", sender=BOB)
        members_only = room.live(type=VISIBILITY, state_key="", content={"history_visibility": "joined"})
        mine = joined(room)
        room.live()
        open_to_all = room.outlier(type=VISIBILITY, state_key="", content={"history_visibility": "world_readable"})
        open_state, closed = room.snapshot(3, [open_to_all]), room.snapshot(4, [members_only], [mine])
        seen = [
            room.history(4),  # the line before its anchor decides: she had joined
            room.history(3, state_nid=open_state),
            room.live(),
        ]
        unseen = [
            room.history(4, state_nid=closed),  # on a branch that does not have her join
            room.history(3),
            room.live(state_nid=closed),
        ]
        await room.save()
        view = await open_room(stored.database, room.room_id, ALICE)
        pages = HistoryPages(stored.database, StoredHistory())
        found = await walk(stored, pages, room, 3, back=True)
        assert set(seen) <= set(found) and not set(unseen) & set(found)
        for event_id in seen + unseen:
            row = await get_timeline_event(stored.database, room.room_nid, event_id)
            assert row is not None
            await load_branches(stored.database, view, [row])
            event = view.event(row)
            assert view.view.may_see(event) == (event_id in seen)
            assert view.view.membership_after(event) == (
                "leave" if event_id in unseen or room.places[event_id].ordinal == 3 else "join"
            )


async def test_history_before_all_known_state_is_no_more_open_than_the_room(
    postgres_module: TestDatabase,
) -> None:
    async with store(postgres_module.dsn) as stored:
        room = stored.room()
        joined(room)
        room.live(type=VISIBILITY, state_key="", content={"history_visibility": "joined"})
        early = room.history(1)
        await room.save()
        found = await walk(stored, HistoryPages(stored.database, StoredHistory()), room, 10, back=True)
        assert early not in found and len(found) == 2


async def test_former_member_sees_the_history_until_their_leave(postgres_module: TestDatabase) -> None:
    async with store(postgres_module.dsn) as stored:
        room = stored.room()
        joined(room)
        room.live()
        room.live(**room.member(ALICE, "leave", sender=BOB))
        room.live()
        before, after = room.history(3), room.history(4)
        await room.save()
        found = await walk(stored, HistoryPages(stored.database, StoredHistory()), room, 2, back=True)
        assert before in found and after not in found and len(found) == 4


async def _plan(conn: Any, sql: str, *args: Any) -> list[dict[str, Any]]:
    """Run a statement and return the nodes of its plan with the rows that they read."""
    await conn.execute(f"PREPARE measured AS {sql}")
    values = ", ".join(map(str, args))
    [row] = await conn.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE measured ({values})")
    await conn.execute("DEALLOCATE measured")

    def nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
        return [node, *(each for child in node.get("Plans", ()) for each in nodes(child))]

    return nodes(json.loads(row[0])[0]["Plan"])


async def test_page_reads_no_more_rows_than_its_limit(postgres_module: TestDatabase) -> None:
    """On a table of many rooms, of which one has all its history in one gap."""
    conn = await asyncpg.connect(postgres_module.dsn)
    try:
        await conn.execute(
            """
            INSERT INTO events (room_nid, event_nid, event_id, writer, position, ordinal, anchor, back, depth, type,
                                sender, origin_server_ts, prev_nids, auth_nids, json)
            SELECT 900000 + r, r * 10000 + n, '$plan' || r || '_' || n, 1, 1,
                   CASE WHEN n <= 40 THEN n END, CASE WHEN n > 40 THEN 20 END, CASE WHEN n > 40 THEN n - 40 END,
                   n, 'm.room.message', '@a:x', n, '{}', '{}', '{}'
            FROM generate_series(1, 200) AS r,
                 LATERAL generate_series(1, CASE WHEN r = 7 THEN 5000 WHEN r % 3 = 0 THEN 60 ELSE 40 END) AS n
            """
        )
        await conn.execute("INSERT INTO gaps SELECT 900000 + r, 20, '{$x}' FROM generate_series(1, 200, 3) AS r")
        await conn.execute("ANALYZE events; ANALYZE gaps; SET plan_cache_mode = force_generic_plan")
        room, limit = 900007, 10
        for sql, args in (
            (timeline._POINTS_BEFORE, (room, 30, 0, limit)),
            (timeline._POINTS_BEFORE, (room, 20, 2500, limit)),
            (timeline._POINTS_FROM, (room, 1, 0, limit)),
            (timeline._POINTS_FROM, (room, 20, 2500, limit)),
            (timeline._SINCE_TIME, (room, 100, limit, 0)),
            (timeline._UNTIL_TIME, (room, 100, limit, 0)),
            (timeline._GAPS, (room, 1, 30, limit)),
            (for_reader._FOR_READER, ("'!nothing:x'", "'@a:x'")),
        ):
            for node in await _plan(conn, sql, *args):
                small = ("rooms", "gaps", "erased_users")
                assert node["Node Type"] != "Seq Scan" or node["Relation Name"] in small, sql
                if "Index Name" in node:
                    assert node["Actual Rows"] <= limit, (sql, node)
                    assert node.get("Rows Removed by Filter", 0) == 0, (sql, node)
    finally:
        await conn.close()


async def test_snapshot_read_costs_its_walk(postgres_module: TestDatabase) -> None:
    async with store(postgres_module.dsn) as stored:
        room = stored.room()
        room.live(type="m.room.create", state_key="")
        parent = room.snapshot(2, [room.outlier(type="k", state_key="0")])
        for number in range(1, 4):
            parent = room.snapshot(0, [room.outlier(type="k", state_key=str(number))], parent=parent)
        await room.save()
        async with stored.database.connection() as conn:
            for sql, args in (
                (snapshots._STATE, (room.room_nid, parent)),
                (snapshots._KEYS, (room.room_nid, f"'{{{parent}}}'", "'{k}'", "'{2}'")),
            ):
                for node in await _plan(conn, sql, *args):
                    assert node["Node Type"] != "Seq Scan" or node["Relation Name"] != "events", sql
