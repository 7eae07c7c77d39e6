"""The pure parts of sliding sync, compared with naive ones."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.identifiers import RoomId, UserId
from shared.core.sync_tokens.vector import Vector
from shared.rooms.timeline_event import MEMBER
from workers.synchrotron.sliding import connection_state
from workers.synchrotron.sliding.connection_state import (
    LIVE,
    MAX_STATES,
    MAX_TOKENS,
    ConnectionState,
    SentRoom,
    StateDraft,
    decode_state,
    encode_state,
)
from workers.synchrotron.sliding.extensions.extension import parse_scope
from workers.synchrotron.sliding.pos import Pos, format_pos, owner_of, parse_pos, sync_token_in
from workers.synchrotron.sliding.ranking import Ranking, _without_overlaps
from workers.synchrotron.sliding.request import RoomConfig, merge_configs
from workers.synchrotron.sliding.required_state import RequiredState, StateRequest, _order, combine

ROOMS = [RoomId(f"!{name}") for name in "abcdefgh"]
TYPES, KEYS = (MEMBER, "m.room.name", "m.x"), ("", "@a:x", "@b:x")
ELEMENTS = st.frozensets(st.tuples(st.sampled_from((None, *TYPES)), st.sampled_from((None, *KEYS))), max_size=4)
WISHES = st.builds(StateRequest, ELEMENTS, ELEMENTS, st.booleans())
STATES = st.lists(WISHES, max_size=3).map(combine)
ALL_KEYS = [(type_, key) for type_ in TYPES for key in KEYS]


@given(
    st.lists(st.tuples(st.sampled_from(ROOMS), st.one_of(st.none(), st.integers(0, 9))), max_size=40),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda ends: (min(ends), max(ends))), max_size=3),
)
def test_ranking_equals_a_sorted_list(moves: list[tuple[RoomId, int | None]], ranges: list[tuple[int, int]]) -> None:
    ranking, places = Ranking(), dict[RoomId, int]()
    for room_id, place in moves:
        if place is None:
            ranking.remove(room_id)
            places.pop(room_id, None)
        else:
            ranking.put(room_id, place)
            places[room_id] = place
    ordered = sorted(places, key=lambda room_id: (places[room_id], room_id), reverse=True)
    assert ranking.rooms() == ordered == Ranking((place, room_id) for room_id, place in places.items()).rooms()
    assert len(ranking) == len(ordered)
    wanted = [ordered[place] for first, last in ranges for place in range(first, last + 1) if place < len(ordered)]
    assert ranking.within(ranges) == list(dict.fromkeys(wanted))
    assert ranking.within(None) == ordered


def test_overlapping_ranges_are_looked_at_once() -> None:
    """A list may have a hundred ranges of five thousand rooms each."""
    assert _without_overlaps([(0, 4_999)] * 100) == [(0, 4_999)]
    assert _without_overlaps([(5, 9), (0, 20), (7, 30)]) == [(5, 9), (0, 4), (10, 20), (21, 30)]


def test_request_is_sorted_once_for_all_rooms() -> None:
    """Twenty lists select rooms in any combination, each with five hundred elements."""
    lists = [RoomConfig(1, combine([StateRequest(frozenset({("m.x", f"{n}")}))])) for n in range(20)]
    before = _order.cache_info().misses
    for chosen in range(1, 200):
        merged = merge_configs(each for n, each in enumerate(lists) if chosen >> n & 1)
        assert len(merged.required_state.parts) == chosen.bit_count()
    assert _order.cache_info().misses - before <= 20


def naively_wants(wish: StateRequest, key: tuple[str, str]) -> bool:
    def is_in(elements: frozenset[tuple[str | None, str | None]]) -> bool:
        for type_, state_key in elements:
            lazily = wish.lazy and elements is wish.include and key[0] == MEMBER and state_key is None
            if type_ in (None, key[0]) and state_key in (None, key[1]) and not lazily:
                return True
        return False

    return is_in(wish.include) and not is_in(wish.exclude)


@given(WISHES, WISHES)
def test_required_state_wants_keys(one: StateRequest, other: StateRequest) -> None:
    both = combine([other, one, one])
    assert both == combine([one, other])
    for key in ALL_KEYS:
        assert one.wants(key) == naively_wants(one, key)
        assert both.wants(key) == (one.wants(key) or other.wants(key))
    if not both.has_wildcard:
        assert {key for key in ALL_KEYS if both.wants(key)} == set(both.named_keys())
    more = {key for key in ALL_KEYS if both.wants(key) and not combine([one]).wants(key)}
    assert not more or both.asks_more_than(combine([one]))
    merged = merge_configs([RoomConfig(3, combine([one])), RoomConfig(5, combine([other]))])
    assert merged == RoomConfig(5, both)


VECTORS = st.integers(1, 9).map(lambda position: Vector(3, position, {2: position + 5}))


@st.composite
def states(draw: Any) -> ConnectionState:
    required = tuple(draw(st.lists(STATES, min_size=1, max_size=3, unique=True)))
    tokens = tuple(draw(st.lists(VECTORS, max_size=3, unique_by=lambda vector: vector.base)))
    rooms = {}
    for number, room_id in enumerate(draw(st.lists(st.sampled_from(ROOMS), unique=True))):
        state = draw(st.integers(0, len(required) - 1))
        token = draw(st.integers(LIVE, len(tokens) - 1))
        rooms[room_id] = SentRoom(
            room_nid=number,
            limit=3,
            known_from=number,
            state=state,
            sent_bits=1,
            is_dm=token == 0,
            stripped=token == 1,
            token=token,
        )
    subscriptions = {room_id: RoomConfig(2, required[0]) for room_id in draw(st.sets(st.sampled_from(ROOMS)))}
    return ConnectionState(rooms, required, tokens, subscriptions)


@given(states())
def test_stored_state_is_decoded_unchanged(state: ConnectionState) -> None:
    room_ids = {room.room_nid: room_id for room_id, room in state.rooms.items()}
    encoded, kept = encode_state(state)
    assert kept is state and decode_state(encoded, room_ids) == state
    assert StateDraft(state).finish() is state
    assert decode_state(encoded, {}).rooms == {}


def test_state_that_is_too_large_forgets_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_state, "MAX_BYTES", 2_000)
    dice = random.Random(1)
    rooms = {RoomId(f"!{number}"): SentRoom(dice.randrange(1 << 60), known_from=number) for number in range(1000)}
    state = ConnectionState(rooms, (combine([]),))
    encoded, kept = encode_state(state)
    assert len(encoded) <= 2_000 and 0 < len(kept.rooms) < 500
    assert kept.rooms.items() <= rooms.items() and list(kept.rooms)[-1] == "!999"
    assert decode_state(encoded, {room.room_nid: room_id for room_id, room in rooms.items()}) == kept
    names = [RoomId(f"!{dice.randrange(1 << 200)}") for _ in range(100)]
    encoded, kept = encode_state(ConnectionState(subscriptions=dict.fromkeys(names, RoomConfig(1, combine([])))))
    assert len(encoded) <= 2_000 and list(kept.subscriptions)[-1] == names[-1]


@given(st.lists(st.tuples(st.sampled_from(ROOMS), st.integers(0, 200), st.integers(0, 200)), min_size=1, max_size=150))
def test_states_and_tokens_are_bounded(changes: list[tuple[RoomId, int, int]]) -> None:
    """A room that remains has the same values as before. Others are forgotten, and sent again."""
    state, meant = ConnectionState(), dict[RoomId, tuple[RequiredState, Vector]]()
    for room_id, wish, position in changes:
        draft = StateDraft(state)
        required = combine([StateRequest(frozenset({("t", str(wish))}))])
        draft.set(room_id, SentRoom(1, state=draft.number_of(required)))
        draft.freeze(room_id, Vector(1, position))
        meant[room_id] = required, Vector(1, position)
        state = draft.finish()
        assert len(state.tokens) <= MAX_TOKENS and len(state.states) <= MAX_STATES
        assert room_id in state.rooms
        after = StateDraft(state)
        for kept, room in state.rooms.items():
            assert (after.state_of(room), after.token_of(room)) == meant[kept]


def test_positions_are_parsed_as_formatted() -> None:
    owner = owner_of(UserId("@a:x"), None, "")
    assert (
        len(
            {
                owner,
                owner_of(UserId("@a:x"), "D", ""),
                owner_of(UserId("@a:x"), "", "c"),
                owner_of(UserId("@b:x"), None, ""),
            }
        )
        == 4
    )
    pos = Pos(owner, 17, "s1_e1.2.3-4_r9")
    assert parse_pos(format_pos(pos)) == pos
    assert sync_token_in(format_pos(pos)) == pos.token and sync_token_in("s1_e1") == "s1_e1"
    for bad in ("", "x1.", "x1.a.b.c", f"x1.{owner}.-1.s1", f"x1.{owner}.²", f"x1.{owner}.{'9' * 19}.s1"):
        assert parse_pos(bad) is None


@pytest.mark.parametrize(
    ("parameters", "in_list", "subscribed"),
    [
        ({}, True, True),
        ({"lists": ["*"], "rooms": []}, True, False),
        ({"lists": [], "rooms": ["*"]}, False, True),
        ({"lists": ["l"], "rooms": ["!r"]}, True, True),
        ({"lists": ["m"], "rooms": ["!s"]}, False, False),
    ],
)
def test_scope_of_an_extension(parameters: dict[str, Any], in_list: bool, subscribed: bool) -> None:
    scope = parse_scope({"enabled": True, **parameters})
    assert scope is not None
    assert scope.has(RoomId("!r"), ("l",), False) == in_list
    assert scope.has(RoomId("!r"), (), True) == subscribed
    assert scope.has(RoomId("!r"), ("l",), True) == (in_list or subscribed)
    assert parse_scope({"enabled": False}) is parse_scope({}) is None
