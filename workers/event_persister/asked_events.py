"""Our own events that cannot simply be the next one: a policy server is asked about them first, or the room has more
extremities than an event may name.

Asking takes as long as another server likes. So it happens outside the room's turn: the event is built, hashed and
signed, others go on writing, and then it is placed on the predecessors that it was built on, authorised again.
Spec: server-server API, "Policy Servers".
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Protocol

from shared.core.errors import AuthRuleViolation, EventFormatError, MatrixError, Unavailable, forbidden
from shared.core.event_checks import PolicyServer, check_policy_signature, needs_policy_signature
from shared.core.event_checks.signatures import POLICY_KEY_ID
from shared.core.events import Event, parse_event
from shared.core.events.format import MAX_PREV_EVENTS
from shared.runtime.clock import Clock
from shared.storage.pool import Database
from workers.event_persister.drafts import NO_CHANGE, Draft, RoomChanged, RoomLost
from workers.event_persister.known_events import KnownEvents
from workers.event_persister.live_room import LiveRoom
from workers.event_persister.placing import Candidate, Placing
from workers.event_persister.room_resolution import RoomResolution

_TRIES = 4  # the last of them while the room's own writes wait
_MAX_SIGNATURE_CHARS = 100  # 64 bytes in base64


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
        async with room.intake.turn("sends"):
            event = await self._build(room, draft)
            policy = room.policy_server() if needs_policy_signature(event) else None
        if policy is not None:
            event = await self._signed(room, event, policy)
        async with room.intake.turn("sends"):
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
        for tries in range(_TRIES):
            async with room.hold() if tries == _TRIES - 1 else nullcontext():
                event = await self._try_to_build(room, draft)
            if event is not None:
                return event
        raise RoomChanged

    async def _try_to_build(self, room: LiveRoom, draft: Draft) -> Event | None:
        """Return None when a write of the room was faster."""
        if room.lost:
            raise RoomLost("The room is moving")
        head = room.head
        known = KnownEvents(room, self._database)
        named = head.extremities[-MAX_PREV_EVENTS:]
        overlay = NO_CHANGE
        if len(named) < len(head.extremities):
            overlay = await self._resolution.resolve(room, [head.branches[nid].overlay for nid, _ in named], known)
        await self._resolution.load(room, lambda: room.missing([draft], overlay, named), known)
        if room.head is not head:
            return None
        return room.make_event(draft, self._clock.now_ms(), named, overlay)[0]

    async def _signed(self, room: LiveRoom, event: Event, policy: PolicyServer) -> Event:
        if check_policy_signature(room.version, event, policy).passed:
            return event  # we are the policy server ourselves
        answer = await self._ask(policy.server_name, event.pdu)
        by_key = answer.get(policy.server_name) if isinstance(answer, Mapping) else None
        signature = by_key.get(POLICY_KEY_ID) if isinstance(by_key, Mapping) else None
        if not isinstance(signature, str) or len(signature) > _MAX_SIGNATURE_CHARS:
            raise forbidden("The room's policy server has not signed the event")
        signatures = {server: dict(keys) for server, keys in event.pdu["signatures"].items()}
        # The policy server may be our own: what we have signed stays.
        signatures.setdefault(policy.server_name, {})[POLICY_KEY_ID] = signature
        try:
            return parse_event(room.version, {**event.pdu, "signatures": signatures}, event_id=event.event_id)
        except EventFormatError as error:
            raise MatrixError(
                "M_TOO_LARGE", "With the policy server's signature the event is too large", 413
            ) from error


async def ask_nobody(server_name: str, pdu: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
    """The answer while this server cannot reach others yet."""
    raise Unavailable(f"The room's policy server, {server_name}, cannot be asked")
