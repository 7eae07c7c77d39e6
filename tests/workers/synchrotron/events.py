"""Events for the pure tests, built without a database."""

import orjson

from shared.core.identifiers import EventId, UserId
from shared.rooms.timeline_event import TimelineEvent

_SENDER = UserId("@a:x")


def event(
    ordinal: int,
    event_type: str = "m.room.message",
    state_key: str | None = None,
    *,
    sender: UserId = _SENDER,
    membership: str | None = None,
    visibility: str | None = None,
    replaces: TimelineEvent | None = None,
    gap: bool = False,
    nid: int | None = None,
) -> TimelineEvent:
    content = {"membership": membership} if membership is not None else {"n": ordinal}
    nid = ordinal if nid is None else nid
    body = orjson.dumps({"content": content, "event_id": f"${nid}", "sender": sender, "type": event_type})
    return TimelineEvent(
        event_nid=nid,
        event_id=EventId(f"${nid}"),
        writer=1,
        position=ordinal,
        ordinal=ordinal,
        type=event_type,
        state_key=state_key,
        sender=sender,
        origin_server_ts=0,
        body=body,
        replaces_nid=replaces.event_nid if replaces is not None else None,
        txn_device=None,
        txn_id=None,
        membership=membership,
        visibility=visibility,
        gap=gap,
    )
