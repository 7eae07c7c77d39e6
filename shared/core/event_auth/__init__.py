"""Authorization rules of room versions 1 to 12. Spec: rooms/, "Authorisation rules".

`shared/core/event_checks` says which room states an event from another server is checked against.
"""

from shared.core.event_auth.auth_events import check_auth_events
from shared.core.event_auth.check import check_auth
from shared.core.event_auth.redaction import may_apply_redaction
from shared.core.event_auth.selection import auth_types_for

__all__ = ["auth_types_for", "check_auth", "check_auth_events", "may_apply_redaction"]
