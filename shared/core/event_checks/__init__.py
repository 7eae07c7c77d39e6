"""The numbered checks on an event that another server sent.

Spec: server-server API, "Checks performed on receipt of a PDU".

| check | subject | function | on failure |
|---|---|---|---|
| 1 | format and size | `check_received` | drop |
| 2 | signatures, by the keys that `required_signatures` names | `check_received` | drop |
| 3 | content hash | `check_received` | continue with the redacted event |
| 4 | the auth events, and the rules in the state formed by them | `check_auth_events_of` | reject |
| 5 | the rules in the state before the event | `check_state_before` | reject |
| 6 | the rules in the room's current state | `check_current_state` | soft-fail |
| 7 | the policy server's signature | `check_policy_signature` | soft-fail |

A check runs only if all checks before it have passed. Results are values: nothing that a server sends raises an error.
"""

from shared.core.event_checks.authorization import check_auth_events_of, check_current_state, check_state_before
from shared.core.event_checks.policy_server import (
    PolicyServer,
    check_policy_signature,
    needs_policy_signature,
    policy_server_of,
)
from shared.core.event_checks.received import ReceivedEvent, RejectedEvent, check_received
from shared.core.event_checks.signatures import (
    POLICY_KEY_ID,
    Keys,
    RequiredSignature,
    VerifyKey,
    capped_validity,
    required_signatures,
)
from shared.core.event_checks.verdict import Outcome, Verdict

__all__ = [
    "POLICY_KEY_ID",
    "Keys",
    "Outcome",
    "PolicyServer",
    "ReceivedEvent",
    "RejectedEvent",
    "RequiredSignature",
    "Verdict",
    "VerifyKey",
    "capped_validity",
    "check_auth_events_of",
    "check_current_state",
    "check_policy_signature",
    "check_received",
    "check_state_before",
    "needs_policy_signature",
    "policy_server_of",
    "required_signatures",
]
