"""Stripped state: the state of a room as shown to users who are invited to it or knock on it.

There are two forms. Clients get four keys of each event. Other servers get whole PDUs, and strip them for their
clients. Spec: client-server API, "Stripped state"; server-server API, "Inviting to a room", "Knocking upon a room".
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

#: The create event is required, the others are included if the room has them. All have the state key "".
STRIPPED_TYPES = (
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
)
_STRIPPED_KEYS = ("content", "sender", "state_key", "type")
#: The limit for a list from another server: ten times the number of events that there are to show.
_MAX_RECEIVED = 100


class HasPdu(Protocol):
    @property
    def pdu(self) -> Mapping[str, Any]: ...


def stripped_state_keys(*members: str) -> tuple[tuple[str, str], ...]:
    """Return the (type, state key) pairs to show, in order: the types above, then the members' own events.

    members: the inviting user and, in the clients' form, the invited user; for a knock the knocking user.
    """
    keys = [(event_type, "") for event_type in STRIPPED_TYPES]
    return tuple(dict.fromkeys((*keys, *(("m.room.member", user_id) for user_id in members))))


def stripped_state(
    state: Mapping[tuple[str, str], HasPdu], *members: str, as_pdus: bool = False
) -> list[Mapping[str, Any]]:
    """Return the stripped state of a room, in the order of `stripped_state_keys`.

    state: (type, state key) -> event. It holds at least those of these keys that the room has.
    members: as for `stripped_state_keys`.
    as_pdus: True for whole events, as in `invite_room_state` and `knock_room_state` between servers (since v1.16);
        False for the clients' four keys (`invite_state` and `knock_state` of /sync, `unsigned`).
    """
    shown = [state[key].pdu for key in stripped_state_keys(*members) if key in state]
    return shown if as_pdus else [strip_event(pdu) for pdu in shown]


def strip_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the four keys of a state event, which may be a PDU or a client event."""
    return {key: event[key] for key in _STRIPPED_KEYS}


def strip_received(entries: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the clients' form of another server's `invite_room_state` or `knock_room_state`.

    Entries are PDUs, or stripped already (before v1.16). Each is pruned to four keys, and entries that are no state
    events are left out, so that a server cannot send anything else to a client. The caller checks that the events are
    of this room and rightly signed.
    """
    stripped: list[dict[str, Any]] = []
    for entry in entries:
        if len(stripped) == _MAX_RECEIVED:
            break
        if _is_state_event(entry):
            stripped.append(strip_event(entry))
    return stripped


def _is_state_event(entry: Any) -> bool:
    return (
        isinstance(entry, Mapping)
        and all(isinstance(entry.get(key), str) for key in ("sender", "state_key", "type"))
        and isinstance(entry.get("content"), Mapping)
    )
