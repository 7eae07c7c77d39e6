"""PURE: what a connection's client has been sent, as of one `pos`.

A `pos` is a token of /sync and the number of such a state. A room that was sent and has no token of its own here is
*live*: the client knows it up to the `pos`. So messages that are delivered change nothing here, and most answers store
nothing. A room with news that the answer does not bring (it is outside the ranges) is *frozen* at the token up to which
the client knows it; bringing it later makes it live again.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from shared.core.sync_tokens.vector import Vector, format_vector, parse_vector
from workers.synchrotron.sliding.request import RoomConfig
from workers.synchrotron.sliding.required_state import RequiredState, StateWish, combine

#: More rooms, or places at which rooms stand frozen, are forgotten, those sent longest ago first: they come anew.
MAX_ROOMS = 20_000
MAX_TOKENS = 32
MAX_STATES = 64  # different `required_state`s
MAX_BYTES = 1 << 20
_ROOM_BYTES = 250
_ELEMENT_BYTES = 300

LIVE = -1


class SentRoom(NamedTuple):
    """One room as the client knows it.

    limit: the timeline_limit that it was given; known_from: it knows every event from this ordinal on that is its to
    see; state: number of the RequiredState that it was given; told: see TOLD_BITS; is_dm, stripped: as last told;
    token: number of the vector at which the room is frozen, or LIVE.
    """

    room_nid: int
    limit: int = 0
    known_from: int = 0
    state: int = 0
    told: int = 0
    is_dm: bool = False
    stripped: bool = False
    token: int = LIVE


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """rooms: by id, those sent last at the end; states, tokens: what `SentRoom` names by number.

    subscriptions: those that stay until they are taken back, the latest at the end.
    """

    rooms: Mapping[str, SentRoom] = field(default_factory=dict)
    states: tuple[RequiredState, ...] = ()
    tokens: tuple[Vector, ...] = ()
    subscriptions: Mapping[str, RoomConfig] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        wanted = (*self.states, *(config.required_state for config in self.subscriptions.values()))
        elements = sum(len(wish.include) + len(wish.exclude) for each in wanted for wish in each.wishes)
        return 1_000 + _ROOM_BYTES * (len(self.rooms) + len(wanted)) + _ELEMENT_BYTES * elements


class StateDraft:
    """A state while an answer is made from it. `finish` returns the same object if nothing changed."""

    def __init__(self, state: ConnectionState) -> None:
        self._old = state
        self.rooms: dict[str, SentRoom] = dict(state.rooms)
        self._states = list(state.states)
        self._tokens = list(state.tokens)
        self._subscriptions = state.subscriptions
        self._changed = False

    @property
    def subscriptions(self) -> Mapping[str, RoomConfig]:
        return self._subscriptions

    def subscribe(self, subscriptions: Mapping[str, RoomConfig], maximum: int) -> None:
        """Replace the subscriptions; of more than `maximum` the first ones go."""
        kept = dict(list(subscriptions.items())[-maximum:])
        if kept != self._subscriptions:
            self._subscriptions, self._changed = kept, True

    def set(self, room_id: str, room: SentRoom) -> None:
        if self.rooms.get(room_id) != room:
            self.rooms.pop(room_id, None)
            self.rooms[room_id] = room
            self._changed = True

    def freeze(self, room_id: str, at: Vector) -> None:
        """The client knows a live room only up to `at` from now on."""
        if at not in self._tokens:
            self._tokens.append(at)
        self.set(room_id, self.rooms[room_id]._replace(token=self._tokens.index(at)))

    def forget_told(self, room_id: str, bit: int) -> None:
        room = self.rooms[room_id]
        if room.told & bit:
            self.set(room_id, room._replace(told=room.told & ~bit))

    def number_of(self, required: RequiredState) -> int:
        if required not in self._states:
            self._states.append(required)
        return self._states.index(required)

    def state_of(self, room: SentRoom) -> RequiredState:
        return self._states[room.state]

    def token_of(self, room: SentRoom) -> Vector | None:
        """Return where the room is frozen; None: it is live."""
        return None if room.token == LIVE else self._tokens[room.token]

    def finish(self) -> ConnectionState:
        if not self._changed:
            return self._old
        for kept, maximum in ((self._tokens, MAX_TOKENS), (self._states, MAX_STATES)):
            if len(kept) > maximum:
                self._compact()
                break
        while len(self.rooms) > MAX_ROOMS:
            del self.rooms[next(iter(self.rooms))]
        return ConnectionState(self.rooms, tuple(self._states), tuple(self._tokens), self._subscriptions)

    def _compact(self) -> None:
        """Number anew what is used; of too many the oldest go, with the rooms that name them."""
        tokens = sorted({room.token for room in self.rooms.values() if room.token != LIVE})[-MAX_TOKENS // 2 :]
        states = sorted({room.state for room in self.rooms.values()})[-MAX_STATES // 2 :]
        new_token = {old: new for new, old in enumerate(tokens)} | {LIVE: LIVE}
        new_state = {old: new for new, old in enumerate(states)}
        self.rooms = {
            room_id: room._replace(token=new_token[room.token], state=new_state[room.state])
            for room_id, room in self.rooms.items()
            if room.token in new_token and room.state in new_state
        }
        self._tokens = [self._tokens[number] for number in tokens]
        self._states = [self._states[number] for number in states]


def encode_state(state: ConnectionState) -> tuple[bytes, ConnectionState]:
    """Return the state's bytes, at most MAX_BYTES, and what is in them.

    Of too many rooms the older half is left out; where no rooms are left, the older half of the subscriptions.
    """
    while True:
        encoded = zlib.compress(orjson.dumps(_as_json(state)), 1)
        if len(encoded) <= MAX_BYTES or not (state.rooms or state.subscriptions):
            return encoded, state
        rooms, subscriptions = list(state.rooms.items()), list(state.subscriptions.items())
        if rooms:
            rooms = rooms[len(rooms) // 2 + 1 :]
        else:
            subscriptions = subscriptions[len(subscriptions) // 2 + 1 :]
        states = state.states if rooms else ()
        state = ConnectionState(dict(rooms), states, state.tokens, dict(subscriptions))


def _as_json(state: ConnectionState) -> dict[str, Any]:
    return {
        "rooms": [list(column) for column in zip(*state.rooms.values(), strict=True)],
        "states": [_required_json(required) for required in state.states],
        "tokens": [format_vector(token) for token in state.tokens],
        "subscriptions": {
            room_id: [config.timeline_limit, _required_json(config.required_state)]
            for room_id, config in state.subscriptions.items()
        },
    }


def decode_state(encoded: bytes, room_ids: Mapping[int, str]) -> ConnectionState:
    """Inverse of encode_state. room_ids: by number; rooms that are not among them are left out."""
    value = orjson.loads(zlib.decompress(encoded))
    rooms = {}
    for row in zip(*value["rooms"], strict=True):
        room_id = room_ids.get(row[0])
        if room_id is not None:
            rooms[room_id] = SentRoom(*row)
    return ConnectionState(
        rooms,
        tuple(map(_required, value["states"])),
        tuple(map(parse_vector, value["tokens"])),
        {room_id: RoomConfig(limit, _required(json)) for room_id, (limit, json) in value["subscriptions"].items()},
    )


def _required_json(required: RequiredState) -> list[Any]:
    return [[list(wish.include), list(wish.exclude), wish.lazy] for wish in required.wishes]


def _required(json: list[Any]) -> RequiredState:
    return combine(
        StateWish(frozenset(map(tuple, include)), frozenset(map(tuple, exclude)), lazy)
        for include, exclude, lazy in json
    )
