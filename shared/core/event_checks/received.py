"""Checks 1 to 3, which need no room state.

Spec: server-server API, "Checks performed on receipt of a PDU", "Validating hashes and signatures on received events".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.core.errors import EventFormatError
from shared.core.event_auth.rule_numbers import violation
from shared.core.event_checks.signatures import (
    Keys,
    SignatureResult,
    redact_if_hash_is_wrong,
    verify_server_signatures,
)
from shared.core.event_checks.verdict import Verdict, drop, reject
from shared.core.events.event import Event, parse_event
from shared.core.events.hashing import redacted_bytes
from shared.core.events.signatures import authorising_server, required_signers
from shared.core.identifiers import RoomId
from shared.core.room_versions import RoomVersion


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event that has passed checks 1 to 3.

    event: the event to process further.
    redacted: True if `event` is the redacted form, because the content hash was wrong.
    """

    event: Event
    redacted: bool


@dataclass(frozen=True, slots=True)
class RejectedEvent:
    """An event that has passed checks 1 to 3 and already fails check 4.

    The field is named `rejected`, unlike `ReceivedEvent.event`, so that the two cannot be confused.
    """

    rejected: Event
    redacted: bool
    verdict: Verdict


def check_received(
    version: RoomVersion, raw: Mapping[str, Any] | bytes | Event, *, keys: Keys, room_id: RoomId | None = None
) -> ReceivedEvent | RejectedEvent | Verdict:
    """Return the event to process further, or a Verdict DROP with the check that failed.

    raw: the PDU as JSON object or bytes. The caller may pass an Event (check 1 is done) parsed for
        `required_signatures`.
    keys: the keys that could be fetched. A missing key is no error.
    room_id: the expected room, if the caller knows it. An event of another room is dropped (check 1).
    A RejectedEvent is returned if the authorising server of a restricted join has not validly signed, since that is an
    authorization rule (rooms/v8, rule 4.2.1). If the server's keys are unknown, the event is dropped.
    """
    try:
        event = raw if isinstance(raw, Event) else parse_event(version, raw)
    except EventFormatError as error:
        return drop(1, str(error))
    if room_id is not None and event.room_id != room_id:
        return drop(1, "room_id: the event is of another room")
    kept, redacted = redact_if_hash_is_wrong(version, event)
    covered = redacted_bytes(version, kept.pdu)
    for server in sorted(required_signers(version, kept)):
        result = verify_server_signatures(version, kept, server, keys, covered)
        if result is not SignatureResult.VALID:
            return drop(2, _reason(result, server))
    authoriser = authorising_server(version, kept)
    if authoriser is not None:
        result = verify_server_signatures(version, kept, authoriser, keys, covered)
        if result is SignatureResult.UNKNOWN:
            return drop(2, _reason(result, authoriser))
        if result is SignatureResult.INVALID:
            broken = violation(version, "member/authorised", "1", "the authorising server has not validly signed")
            return RejectedEvent(kept, redacted, reject(4, broken.rule, broken.message))
    return ReceivedEvent(kept, redacted)


def _reason(result: SignatureResult, server: str) -> str:
    if result is SignatureResult.UNKNOWN:
        return f"signatures: no known and valid key for any signature of {server}"
    return f"signatures: {server} has not validly signed"
