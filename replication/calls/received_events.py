"""The body and the answer of the call `RECEIVE_EVENTS`: events of other servers for a room of ours."""

from typing import Literal, TypeAlias

import msgspec

MAX_PDUS = 200


class ReceivedPdu(msgspec.Struct, frozen=True):
    """pdu: the event as another server sent it, checks 1 to 3 passed, redacted where its hash was wrong.

    outlier: store it without a place (an auth event, or part of a state). state_before: ids of the whole state before
    it, as another server names it, for an event whose previous events cannot be had; all must be stored, or come in
    the same call. anchor: it is history: it lies in the gap before the live event with this ordinal.
    """

    pdu: msgspec.Raw
    outlier: bool = False
    state_before: list[str] | None = None
    anchor: int | None = None


class ReceiveRequest(msgspec.Struct, frozen=True):
    """At most MAX_PDUS, in any order."""

    pdus: list[ReceivedPdu]


#: "missing": nothing can be said before other events are here.
ReceivedAs: TypeAlias = Literal["accepted", "soft_failed", "rejected", "dropped", "missing"]


class Received(msgspec.Struct, frozen=True):
    """What became of an event. missing: what must be there before anything can be said ("missing" only)."""

    outcome: ReceivedAs
    reason: str = ""
    missing: list[str] = []


class ReceiveAnswer(msgspec.Struct, frozen=True):
    """results: event id -> what became of it; events without a valid form are not in it."""

    results: dict[str, Received]
