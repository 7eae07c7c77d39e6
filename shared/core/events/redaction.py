"""The redaction algorithm. Spec: rooms/v11, "Redactions", and its predecessors."""

from collections.abc import Mapping
from typing import Any

from shared.core.room_versions import RoomVersion


def redact_pdu(version: RoomVersion, pdu: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the event with only the keys that a redaction leaves, without `unsigned`.

    This is also the first step of signing and of the reference hash. A second redaction changes nothing.
    """
    rules = version.redaction
    redacted = {key: value for key, value in pdu.items() if key in rules.event_keys}
    content = pdu.get("content")
    if isinstance(content, Mapping):
        redacted["content"] = _redact_content(version, pdu.get("type"), content)
    return redacted


def _redact_content(version: RoomVersion, event_type: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    rules = version.redaction
    if not isinstance(event_type, str):
        return {}
    if rules.whole_create_content and event_type == "m.room.create":
        return dict(content)
    kept = rules.content_keys.get(event_type)
    if kept is None:
        return {}
    redacted = {key: value for key, value in content.items() if key in kept}
    if rules.third_party_signed and event_type == "m.room.member":
        invite = content.get("third_party_invite")
        if isinstance(invite, Mapping) and "signed" in invite:
            redacted["third_party_invite"] = {"signed": invite["signed"]}
    return redacted
