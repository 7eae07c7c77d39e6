"""Our own events that cannot simply be the next one: a policy server is asked about them first, or the room has more
extremities than an event may name.

Asking takes as long as another server likes. So it happens outside the room's turn: the event is built, hashed and
signed, others go on writing, and then it is placed on the predecessors that it was built on, authorised again.
Spec: server-server API, "Policy Servers".
"""

from collections.abc import Mapping
from typing import Any, Protocol

from shared.core.errors import AuthRuleViolation, Unavailable, forbidden
from shared.core.event_checks import PolicyServer, check_policy_signature, needs_policy_signature
from shared.core.events import Event, parse_event
from shared.core.events.format import MAX_PREV_EVENTS
from shared.runtime.clock import Clock
from shared.storage.pool import Database
from workers.event_persister.drafts import NO_CHANGE, Draft, RoomLost
from workers.event_persister.known_events import KnownEvents
from workers.event_persister.live_room import LiveRoom
from workers.event_persister.placing import Candidate, Placing
from workers.event_persister.room_resolution import RoomResolution

_TRIES = 3


class AskPolicyServer(Protocol):
    async def __call__(self, server_name: str, pdu: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
        """Return the signatures that the policy server puts on an event: server -> key id -> signature.

        Raises MatrixError M_FORBIDDEN when it refuses, Unavailable or RemoteServerError when it cannot be asked.
        """
        ...


class AskedEvents:
    def __init__(
        self,
        placing: Placing,
        resolution: RoomResolution,
        ask: AskPolicyServer,
        database: Database,
        clock: Clock,
    ) -> None:
        self._placing = placing
        self._resolution = resolution
        self._ask = ask
        self._database = database
        self._clock = clock

    @staticmethod
    def concerns(room: LiveRoom) -> bool:
        """Whether events of this room go this way now. Costs the usual send two look-ups."""
        return not room.names_all_extremities or room.policy_server() is not None

    async def write(self, room: LiveRoom, draft: Draft, key: bytes | None) -> str:
        """Store one event and return its id.

        Raises AuthRuleViolation, MatrixError, Unavailable, RoomLost, RoomChanged.
        """
        async with room.intake:
            event = await self._build(room, draft)
            policy = room.policy_server() if needs_policy_signature(event) else None
        if policy is not None:
            event = await self._signed(room, event, policy)
        async with room.intake:
            known = KnownEvents(room, self._database)
            await known.look_up([*event.prev_event_ids, *event.auth_event_ids])
            placed = await self._placing.place(room, Candidate(event, draft, key), known)
        if placed.write is None:
            verdict = placed.verdict
            if verdict.rule:
                raise AuthRuleViolation(verdict.rule, verdict.reason)
            raise forbidden(verdict.reason)
        return (await placed.write.wait())[-1]

    async def _build(self, room: LiveRoom, draft: Draft) -> Event:
        """Build an event on the latest extremities that it may name, in the state that they make."""
        for _ in range(_TRIES):
            if room.lost:
                raise RoomLost("The room is moving")
            head = room.head
            known = KnownEvents(room, self._database)
            named = head.extremities[-MAX_PREV_EVENTS:]
            overlay = NO_CHANGE
            if len(named) < len(head.extremities):
                overlay = await self._resolution.resolve(room, [head.branches[nid].overlay for nid, _ in named], known)
            await self._resolution.load(room, room.missing([draft], overlay), known)
            if room.head is head:
                return room.make_event(draft, self._clock.now_ms(), named, overlay)[0]
        async with room.hold():
            return await self._build(room, draft)

    async def _signed(self, room: LiveRoom, event: Event, policy: PolicyServer) -> Event:
        if check_policy_signature(room.version, event, policy).passed:
            return event  # we are the policy server ourselves
        answer = await self._ask(policy.server_name, event.pdu)
        signatures = {server: dict(by_key) for server, by_key in event.pdu["signatures"].items()}
        for server, by_key in answer.items():
            if server == policy.server_name:
                signatures.setdefault(server, {}).update(by_key)
        return parse_event(room.version, {**event.pdu, "signatures": signatures}, event_id=event.event_id)


async def ask_nobody(server_name: str, pdu: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
    """The answer while this server cannot reach others yet."""
    raise Unavailable(f"The room's policy server, {server_name}, cannot be asked")
