"""PURE: what a connection's client has been sent, as of one `pos`.

A `pos` is a token of /sync with the number of such a state. A sent room without a token of its own is *live*: the
client knows it up to the `pos`. So delivering messages does not change the state, and most responses store nothing. A
room with updates that a response leaves out, being outside the ranges, is *frozen* at the token up to which the client
knows it. Once it is sent it is live again.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from shared.cache.sizes import deep_size
from shared.core.identifiers import RoomId
from shared.core.sync_tokens.vector import Vector, format_vector, parse_vector
from workers.synchrotron.sliding.request import RoomConfig
from workers.synchrotron.sliding.required_state import RequiredState, StateRequest, combine

#: Beyond these numbers, the rooms sent longest ago are forgotten and sent again as `initial`.
MAX_ROOMS = 20_000
MAX_TOKENS = 32
MAX_STATES = 64  # different `required_state`s
MAX_BYTES = 1 << 20
_STATE_BYTES = 600
_ROOM_BYTES = 220  # a room's place and record, measured with tracemalloc; the user's memberships have its id

LIVE = -1


class SentRoom(NamedTuple):
    """One room as the client knows it."""

    room_nid: int
    #: The timeline_limit that was sent.
    limit: int = 0
    #: The client has every visible event from this ordinal on.
    known_from: int = 0
    #: The number of the RequiredState that was sent.
    state: int = 0
    #: The extensions that have sent their part of the room: see SENT_BITS.
    sent_bits: int = 0
    #: As last sent.
    is_dm: bool = False
    stripped: bool = False
    #: The number of the vector at which the room is frozen, or LIVE.
    token: int = LIVE


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """The rooms and extensions that the client has been sent."""

    #: By id, the room sent last at the end.
    rooms: Mapping[RoomId, SentRoom] = field(default_factory=dict)
    #: The required states and vectors that `SentRoom` names by number.
    states: tuple[RequiredState, ...] = ()
    tokens: tuple[Vector, ...] = ()
    #: The subscriptions that last until they are withdrawn, the latest at the end.
    subscriptions: Mapping[RoomId, RoomConfig] = field(default_factory=dict)

    #: The memory that it takes, without the room ids. States never change, so it is measured once.
    size_bytes: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        texts = deep_size(self.states, self.tokens, self.subscriptions)
        object.__setattr__(self, "size_bytes", _STATE_BYTES + _ROOM_BYTES * len(self.rooms) + texts)


class StateDraft:
    """A state while a response is built from it. `finish` returns the same object if nothing changed."""

    def __init__(self, state: ConnectionState) -> None:
        self._old = state
        self.rooms: dict[RoomId, SentRoom] = dict(state.rooms)
        self._states = list(state.states)
        self._tokens = list(state.tokens)
        self._subscriptions = state.subscriptions
        self._changed = False

    @property
    def subscriptions(self) -> Mapping[RoomId, RoomConfig]:
        return self._subscriptions

    def subscribe(self, subscriptions: Mapping[RoomId, RoomConfig], maximum: int) -> None:
        """Replace the subscriptions. Of more than `maximum`, the first ones are dropped."""
        kept = dict(list(subscriptions.items())[-maximum:])
        if kept != self._subscriptions:
            self._subscriptions, self._changed = kept, True

    def set(self, room_id: RoomId, room: SentRoom) -> None:
        if self.rooms.get(room_id) != room:
            self.rooms.pop(room_id, None)
            self.rooms[room_id] = room
            self._changed = True

    def freeze(self, room_id: RoomId, at: Vector) -> None:
        """Note that the client knows a live room only up to `at` from now on."""
        if at not in self._tokens:
            self._tokens.append(at)
        self.set(room_id, self.rooms[room_id]._replace(token=self._tokens.index(at)))

    def number_of(self, required: RequiredState) -> int:
        if required not in self._states:
            self._states.append(required)
        return self._states.index(required)

    def state_of(self, room: SentRoom) -> RequiredState:
        return self._states[room.state]

    def token_of(self, room: SentRoom) -> Vector | None:
        """Return the vector at which the room is frozen, None for a live room."""
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
        """Renumber the tokens and states in use. Of too many, the oldest are dropped with their rooms."""
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
    """Return the encoded state, at most MAX_BYTES, and the state that it holds.

    While it is too large, the older half of the rooms is left out, then the older half of the subscriptions.
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


def decode_state(encoded: bytes, room_ids: Mapping[int, RoomId]) -> ConnectionState:
    """Decode the result of encode_state. Rooms that are not in `room_ids`, by number, are left out."""
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
    return [[list(part.include), list(part.exclude), part.lazy] for part in required.parts]


def _required(json: list[Any]) -> RequiredState:
    return combine(
        StateRequest(frozenset(map(tuple, include)), frozenset(map(tuple, exclude)), lazy)
        for include, exclude, lazy in json
    )
