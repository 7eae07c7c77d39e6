"""Events: format, hashes, redaction, building and reading. Spec: server-server API, "PDUs"; rooms/."""

from shared.core.events.building import build_event
from shared.core.events.event import Event, event_from_storage, parse_event
from shared.core.events.redaction import redact_pdu

__all__ = ["Event", "build_event", "event_from_storage", "parse_event", "redact_pdu"]
