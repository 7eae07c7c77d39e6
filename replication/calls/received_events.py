"""The body and the answer of the call `RECEIVE_EVENTS`: events of other servers for a room of ours."""

from typing import Literal, TypeAlias

import msgspec

from shared.core.identifiers import EventId

MAX_PDUS = 200


class ReceivedPdu(msgspec.Struct, frozen=True):
    """One event of another server."""

    #: The event as the server sent it. It passed checks 1 to 3, and is redacted if its hash was wrong.
    pdu: msgspec.Raw
    #: Store it outside of the timeline: an auth event, or part of a state.
    outlier: bool = False
    #: For an event whose previous events are unavailable: the ids of the whole state before it, as another server names
    #: it. All of them must be stored, or in the same call.
    state_before: list[EventId] | None = None
    #: For an event of the history: it lies in the gap before the live event with this ordinal.
    anchor: int | None = None


class ReceiveRequest(msgspec.Struct, frozen=True):
    """At most MAX_PDUS events, in any order."""

    pdus: list[ReceivedPdu]


#: "missing": the event cannot be judged before other events are here.
ReceivedAs: TypeAlias = Literal["accepted", "soft_failed", "rejected", "dropped", "missing"]


class Received(msgspec.Struct, frozen=True):
    """The outcome for one event."""

    outcome: ReceivedAs
    reason: str = ""
    #: Only for "missing": the events that must be here first.
    missing: list[EventId] = []


class ReceiveAnswer(msgspec.Struct, frozen=True):
    """results: the outcome by event id. Events without a valid form are not in it."""

    results: dict[EventId, Received]
