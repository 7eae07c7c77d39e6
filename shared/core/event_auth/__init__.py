"""Authorization rules of room versions 1 to 12. Spec: rooms/, "Authorisation rules".

Which check for what (spec: server-server API, "Checks performed on receipt of a PDU"):

1. format (events/format.py), signatures (events/signatures.py), content hash (events/hashing.py);
2. `check_auth_events`: the auth events that the event names are the right kind;
3. `check_auth` against the state that its auth events make: else rejected;
4. `check_auth` against the room's state before the event: else rejected;
5. `check_auth` against the room's present state: else soft-failed.
"""

from shared.core.event_auth.auth_events import check_auth_events
from shared.core.event_auth.check import check_auth
from shared.core.event_auth.redaction import may_apply_redaction
from shared.core.event_auth.selection import auth_types_for

__all__ = ["auth_types_for", "check_auth", "check_auth_events", "may_apply_redaction"]
