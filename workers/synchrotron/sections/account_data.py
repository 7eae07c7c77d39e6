"""PURE: the account data of a response, of rooms and of the user. Spec: client-server API, "Client Config"."""

from typing import Any

import orjson

from replication.streams import ACCOUNT_DATA, PUSH_RULES
from shared.core.filters import EventFilter
from shared.core.identifiers import RoomId
from shared.core.rows import GLOBAL
from workers.synchrotron.sections.span import Span
from workers.synchrotron.users.sync_user import SyncUser

_PUSH_RULES = "m.push_rules"


def account_data_events(
    user: SyncUser, room_id: RoomId, span: Span, wanted: EventFilter, *, everything: bool
) -> list[Any]:
    """Return the account data of a room, or of GLOBAL.

    Deleted data is sent once, as empty content. everything: the client has none of it yet.
    """
    events: list[Any] = []
    records = user.account_data.get(room_id)
    if not records or (room_id != GLOBAL and not wanted.match_room(room_id)):
        return events
    now = span.now.vector(ACCOUNT_DATA.name)
    for record in records.values():
        if everything or span.since is None:
            is_new = record.json is not None and now.covers(record.writer, record.position)
        else:
            is_new = span.is_new(ACCOUNT_DATA.name, record.writer, record.position)
        if is_new and wanted.match_type(record.type):
            events.append({"type": record.type, "content": orjson.Fragment(record.json or b"{}")})
    return events


def global_account_data(user: SyncUser, span: Span, wanted: EventFilter) -> list[Any]:
    """Return the global account data and the push rules."""
    events = account_data_events(user, GLOBAL, span, wanted, everything=span.since is None)
    rules = user.push_rules
    # Always the whole set. Spec: push notifications, "Push Rules: Events".
    is_new = span.since is None or span.is_new(PUSH_RULES.name, rules.writer, rules.position)
    if is_new and wanted.match_type(_PUSH_RULES):
        events.append({"type": _PUSH_RULES, "content": user.get_ruleset()})
    return events
