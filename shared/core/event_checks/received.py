"""Checks 1 to 3: what can be said about an event without the room's state.

Spec: server-server API, "Checks performed on receipt of a PDU", "Validating hashes and signatures on received events".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.core.errors import EventFormatError
from shared.core.event_auth.rules import violation
from shared.core.event_checks.signatures import Keys, Proof, form_to_keep, proof_by
from shared.core.event_checks.verdict import Verdict, drop, reject
from shared.core.events.event import Event, parse_event
from shared.core.events.hashing import redacted_bytes
from shared.core.events.signatures import authorising_server, required_signers
from shared.core.room_versions import RoomVersion


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event that has passed checks 1 to 3.

    event: in the form to go on with. redacted: whether that is the redacted one, because the content hash was wrong.
    """

    event: Event
    redacted: bool


@dataclass(frozen=True, slots=True)
class RejectedEvent:
    """An event that has passed checks 1 to 3 and is known to fail check 4 already: verdict says why.

    Its field has another name than `ReceivedEvent.event` on purpose: nobody shall take one for the other.
    """

    rejected: Event
    redacted: bool
    verdict: Verdict


def check_received(
    version: RoomVersion, raw: Mapping[str, Any] | bytes | Event, *, keys: Keys, room_id: str | None = None
) -> ReceivedEvent | RejectedEvent | Verdict:
    """Return the event to go on with, or a Verdict DROP naming the check that failed.

    raw: the PDU as object or JSON; an Event (check 1 has been done) where the caller has parsed it for
        `required_signatures`. keys: those that could be had; a missing one is no error.
    room_id: the room that the event must be of, where the caller knows it; else dropped (check 1).
    RejectedEvent: the authorising server of a restricted join has not validly signed, which is a rule about
        authorization (rooms/v8, rule 4.2.1). Where its keys are unknown nothing can be said: dropped.
    """
    try:
        event = raw if isinstance(raw, Event) else parse_event(version, raw)
    except EventFormatError as error:
        return drop(1, str(error))
    if room_id is not None and event.room_id != room_id:
        return drop(1, "room_id: the event is of another room")
    kept, redacted = form_to_keep(version, event)
    covered = redacted_bytes(version, kept.pdu)
    for server in sorted(required_signers(version, kept)):
        proof = proof_by(version, kept, server, keys, covered)
        if proof is not Proof.VALID:
            return drop(2, _complaint(proof, server))
    authoriser = authorising_server(version, kept)
    if authoriser is not None:
        proof = proof_by(version, kept, authoriser, keys, covered)
        if proof is Proof.UNKNOWN:
            return drop(2, _complaint(proof, authoriser))
        if proof is Proof.INVALID:
            broken = violation(version, "member/authorised", "1", "the authorising server has not validly signed")
            return RejectedEvent(kept, redacted, reject(4, broken.rule, broken.message))
    return ReceivedEvent(kept, redacted)


def _complaint(proof: Proof, server: str) -> str:
    if proof is Proof.UNKNOWN:
        return f"signatures: no known and valid key for any signature of {server}"
    return f"signatures: {server} has not validly signed"
