"""Events for the pure tests: made by hand, in no database."""

import orjson

from shared.rooms.timeline_event import TimelineEvent


def event(
    ordinal: int, event_type: str = "m.room.message", state_key: str | None = None, *, sender: str = "@a:x",
    membership: str | None = None, visibility: str | None = None, replaces: TimelineEvent | None = None,
    gap: bool = False, nid: int | None = None,
) -> TimelineEvent:  # fmt: skip
    content = {"membership": membership} if membership is not None else {"n": ordinal}
    nid = ordinal if nid is None else nid
    body = orjson.dumps({"content": content, "event_id": f"${nid}", "sender": sender, "type": event_type})
    return TimelineEvent(
        nid, f"${nid}", 1, ordinal, ordinal, event_type, state_key, sender, 0, body,
        replaces.event_nid if replaces is not None else None, None, None, membership, visibility, gap,
    )  # fmt: skip
