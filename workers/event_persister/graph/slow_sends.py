"""The slow path of our own events.

It is for rooms whose policy server must sign an event first, and for rooms with more extremities than an event may
name. A policy server may take as long as it likes, so the room's turn is not held meanwhile. The event is built, hashed
and signed while other writes go on. Then it is placed behind the previous events that it names, and authorised again.
Spec: server-server API, "Policy Servers".
"""

from contextlib import nullcontext

from shared.core.errors import AuthRuleViolation, forbidden
from shared.core.event_checks import needs_policy_signature
from shared.core.events import Event
from shared.core.events.format import MAX_PREV_EVENTS
from shared.core.identifiers import EventId
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database
from workers.event_persister.graph.branch_resolution import RoomResolution
from workers.event_persister.graph.known_events import KnownEvents
from workers.event_persister.graph.placement import Candidate, Placing
from workers.event_persister.graph.policy_signatures import PolicySignatures
from workers.event_persister.room.drafts import NO_CHANGE, Draft, RoomChanged, RoomLost
from workers.event_persister.room.live_room import LiveRoom, Write

_TRIES = 4  # the last of them while the room's own writes wait


class SlowSends:
    def __init__(
        self,
        placing: Placing,
        resolution: RoomResolution,
        signatures: PolicySignatures,
        database: Database,
        clock: Clock,
    ) -> None:
        self._placing = placing
        self._resolution = resolution
        self._signatures = signatures
        self._database = database
        self._clock = clock

    @staticmethod
    def concerns(room: LiveRoom) -> bool:
        """Return True if events of this room take the slow path now. Costs the usual send two look-ups."""
        return not room.state.names_all_extremities or room.state.policy_server() is not None

    async def write(self, room: LiveRoom, draft: Draft, key: bytes | None) -> EventId:
        """Store one event and return its id.

        Raises AuthRuleViolation, MatrixError, Unavailable, RoomLost, RoomChanged.
        """
        return await self.place(room, await self.build(room, draft), draft, key)

    async def build(self, room: LiveRoom, draft: Draft) -> Event:
        """Build one event on the room's latest extremities, for `place` to store, at once or much later."""
        async with room.turns.take("sends"):
            return await self._build(room, draft)

    async def place(self, room: LiveRoom, event: Event, draft: Draft, key: bytes | None) -> EventId:
        """Store an event that `build` made, on the predecessors that it was built on, and return its id.

        Raises as `write`.
        """
        policy = room.state.policy_server() if needs_policy_signature(event) else None
        if policy is not None:
            event = await self._signatures.signed(room, event, policy)
        async with room.turns.take("sends"):
            write = await self._place(room, event, draft, key)
        return (await write.wait())[-1]

    async def place_unasked(self, room: LiveRoom, draft: Draft) -> None:
        """Give one event its place in a room with more extremities than it may name. Its write is then under way.

        The caller holds the room's turn. The room has no policy server. Raises as `write`.
        """
        event = await self._build(room, draft)
        await self._place(room, event, draft, None)

    async def _place(self, room: LiveRoom, event: Event, draft: Draft, key: bytes | None) -> Write:
        known = KnownEvents(room, self._database)
        await known.look_up([*event.prev_event_ids, *event.auth_event_ids])
        placed = await self._placing.place(room, Candidate(event=event, draft=draft, key=key), known)
        if placed.write is None:
            verdict = placed.verdict
            if verdict.rule:
                raise AuthRuleViolation(verdict.rule, verdict.reason)
            raise forbidden(verdict.reason)
        return placed.write

    async def _build(self, room: LiveRoom, draft: Draft) -> Event:
        """Build an event behind the latest extremities that it may name, in the state that they resolve to."""
        for tries in range(_TRIES):
            async with room.hold() if tries == _TRIES - 1 else nullcontext():
                event = await self._try_to_build(room, draft)
            if event is not None:
                return event
        raise RoomChanged

    async def _try_to_build(self, room: LiveRoom, draft: Draft) -> Event | None:
        """Return None if a write of the room was faster."""
        if room.lost:
            raise RoomLost("The room is moving")
        head = room.state.head
        known = KnownEvents(room, self._database)
        named = head.extremities[-MAX_PREV_EVENTS:]
        overlay = NO_CHANGE
        if len(named) < len(head.extremities):
            overlay = await self._resolution.resolve(room, [head.branches[nid].overlay for nid, _ in named], known)
        await self._resolution.load(room, lambda: room.builder.missing([draft], overlay, named), known)
        if room.state.head is not head:
            return None
        return room.builder.make_event(draft, self._clock.now_ms(), named, overlay)[0]
