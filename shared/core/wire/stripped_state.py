"""What those who are not in a room are shown of its state, to know what they are invited to or knock on.

Two forms: clients get four keys of each event; another server gets whole PDUs, from which it strips its clients' form
itself. Spec: client-server API, "Stripped state"; server-server API, "Inviting to a room", "Knocking upon a room".
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

#: The create event is required; the others as far as the room has them. All have the state key "".
SHOWN_TYPES = (
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
)
_STRIPPED_KEYS = ("content", "sender", "state_key", "type")
#: Of a list that another server sent, no more than this is shown: ten times what there is to show.
_MAX_RECEIVED = 100


class HasPdu(Protocol):
    @property
    def pdu(self) -> Mapping[str, Any]: ...


def shown_state_keys(*members: str) -> tuple[tuple[str, str], ...]:
    """Return the (type, state key) of what to show, in order: the types above, then the members' own events.

    members: who invited and, for the client's form, who is invited; for a knock the user who knocks.
    """
    keys = [(event_type, "") for event_type in SHOWN_TYPES]
    return tuple(dict.fromkeys((*keys, *(("m.room.member", user_id) for user_id in members))))


def stripped_state(
    state: Mapping[tuple[str, str], HasPdu], *members: str, as_pdus: bool = False
) -> list[Mapping[str, Any]]:
    """Return what to show of a room's state, in the order of `shown_state_keys`.

    state: (type, state key) -> event, at least those of these keys that the room has. members: see there.
    as_pdus: whole events as the room's version formats them, for `invite_room_state` and `knock_room_state` between
        servers (since v1.16); else the clients' four keys (`invite_state` and `knock_state` of /sync, `unsigned`).
    """
    shown = [state[key].pdu for key in shown_state_keys(*members) if key in state]
    return shown if as_pdus else [strip_event(pdu) for pdu in shown]


def strip_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the four keys of a state event, which may be a PDU or a client event."""
    return {key: event[key] for key in _STRIPPED_KEYS}


def strip_received(entries: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the clients' form of another server's `invite_room_state` or `knock_room_state`, pruned to four keys.

    Entries that are no state events are left out, PDUs or stripped already (before v1.16): a client must not see
    through to what a server sends. Whether the events are of this room and rightly signed is the caller's to check.
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
