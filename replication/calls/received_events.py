"""The bodies and the answers of the calls `RECEIVE_EVENTS` and `GIVE_STATE`: events of other servers for a room."""

from typing import Literal, TypeAlias

import msgspec

from shared.core.identifiers import EventId

MAX_PDUS = 200
MAX_STATES = 10
#: Below the time limit of calls between processes.
MAX_WAIT_S = 20.0


class ReceivedPdu(msgspec.Struct, frozen=True):
    """One event of another server that has passed checks 1 to 3. The owner of the room does not repeat them."""

    event_id: EventId
    #: The event in canonical JSON, redacted if its hash was wrong.
    pdu: msgspec.Raw
    #: Store it outside of the timeline: an auth event, or part of a state.
    outlier: bool = False
    #: The rule and the reason for which it fails check 4 already: the authorising server of a restricted join has not
    #: signed it. It is stored as rejected.
    rejection: tuple[str, str] | None = None
    #: For an event whose previous events are unavailable: the whole state before it, as another server names it. The
    #: number comes from `GIVE_STATE`.
    state_before: int | None = None
    #: For an event of the history: it lies in the gap before the live event with this ordinal.
    anchor: int | None = None


class ReceiveRequest(msgspec.Struct, frozen=True):
    """At most MAX_PDUS events, in any order, with at most MAX_STATES states before them."""

    pdus: list[ReceivedPdu]
    #: Seconds after which the owner answers, also if the work goes on. The next call with the same events joins it.
    wait_s: float = MAX_WAIT_S


#: "missing": the event cannot be judged before other events are here.
#: "parked": it cannot be judged before an operator has looked at the room, whose state cannot be resolved.
ReceivedAs: TypeAlias = Literal["accepted", "soft_failed", "rejected", "dropped", "missing", "parked"]


class Received(msgspec.Struct, frozen=True):
    """The outcome for one event."""

    outcome: ReceivedAs
    reason: str = ""
    #: Only for "missing": the events that must be here first.
    missing: list[EventId] = []
    #: Only for "missing": True if the state before the event is not stored. Give it again.
    lacks_state: bool = False


class ReceiveAnswer(msgspec.Struct, frozen=True):
    """The outcome by event id. Events of other rooms are not in it."""

    results: dict[EventId, Received] = {}
    #: False if the room does not exist here.
    has_room: bool = True
    #: False while the work goes on: the same call again gets its result.
    is_finished: bool = True


class GivenState(msgspec.Struct, frozen=True):
    """A whole state of a room, as another server names it. The events must be stored."""

    event_ids: list[EventId]


class GivenStateAnswer(msgspec.Struct, frozen=True):
    """The number of the state, for `ReceivedPdu.state_before`. For a while the same state has the same number."""

    state: int | None = None
    #: The events that must be stored first. There is no number then.
    missing: list[EventId] = []
    #: False if the room does not exist here.
    has_room: bool = True
