"""Signatures of policy servers. Spec: server-server API, "Policy Servers".

A request takes as long as another server likes, so the room's turn is not held meanwhile.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from shared.core.errors import EventFormatError, MatrixError, RemoteServerError, Unavailable, forbidden
from shared.core.event_checks import PolicyServer, check_policy_signature
from shared.core.event_checks.signatures import POLICY_KEY_ID
from shared.core.events import Event, parse_event
from shared.core.identifiers import EventId
from workers.event_persister.room.live_room import LiveRoom

_MAX_SIGNATURE_CHARS = 100  # 64 bytes in base64
#: For events of other servers that came without a signature. If they are not signed by then, they are soft-failed.
_MAX_S = 10.0
_AT_ONCE = 10


class AskPolicyServer(Protocol):
    async def __call__(self, server_name: str, pdu: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
        """Return the signatures that the policy server puts on an event: server -> key id -> signature.

        Raises MatrixError with the policy server's own error if it refuses, Unavailable or RemoteServerError if it
        cannot be reached.
        """
        ...


class PolicySignatures:
    def __init__(self, ask: AskPolicyServer) -> None:
        self._ask = ask

    async def signed(self, room: LiveRoom, event: Event, policy: PolicyServer) -> Event:
        """Return the event with the policy server's signature, which is not verified yet.

        Raises MatrixError, Unavailable, RemoteServerError.
        """
        if check_policy_signature(room.version, event, policy).passed:
            return event
        answer = await self._ask(policy.server_name, event.pdu)
        by_key = answer.get(policy.server_name) if isinstance(answer, Mapping) else None
        signature = by_key.get(POLICY_KEY_ID) if isinstance(by_key, Mapping) else None
        if not isinstance(signature, str) or len(signature) > _MAX_SIGNATURE_CHARS:
            raise forbidden("The room's policy server has not signed the event")
        signatures = {server: dict(keys) for server, keys in event.pdu["signatures"].items()}
        # The policy server may be the sender's own server. Its other signatures stay.
        signatures.setdefault(policy.server_name, {})[POLICY_KEY_ID] = signature
        try:
            return parse_event(room.version, {**event.pdu, "signatures": signatures}, event_id=event.event_id)
        except EventFormatError as error:
            raise MatrixError(
                "M_TOO_LARGE", "With the policy server's signature the event is too large", 413
            ) from error

    async def signed_ones(self, room: LiveRoom, events: Sequence[Event], policy: PolicyServer) -> dict[EventId, Event]:
        """Return by id those of the events that are signed, or were signed within some seconds.

        Spec: "Validating Policy Server signatures": a missing or invalid signature is requested once, since the policy
        server's key may have changed.
        """
        places = asyncio.Semaphore(_AT_ONCE)
        signed: dict[EventId, Event] = {}

        async def sign(event: Event) -> None:
            async with places:
                try:
                    signed[event.event_id] = await self.signed(room, event, policy)
                except (MatrixError, Unavailable, RemoteServerError):
                    return  # it will be soft-failed for lack of a signature

        tasks = [asyncio.ensure_future(sign(event)) for event in events]
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=_MAX_S)
        finally:
            for task in tasks:
                task.cancel()
        return dict(signed)


async def ask_nobody(server_name: str, pdu: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
    """Raise Unavailable: this server cannot send requests to other servers yet."""
    raise Unavailable(f"The room's policy server, {server_name}, cannot be reached")
