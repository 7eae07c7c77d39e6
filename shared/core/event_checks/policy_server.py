"""Check 7: the room's policy server. Spec: server-server API, "Policy Servers"."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shared.core.errors import SignatureError
from shared.core.event_checks.signatures import POLICY_KEY_ID
from shared.core.event_checks.verdict import Verdict, accept, soft_fail
from shared.core.events.event import Event
from shared.core.events.signatures import verify_pdu
from shared.core.identifiers import UserId
from shared.core.room_versions import RoomVersion
from shared.core.signing import parse_verify_key

_POLICY = "m.room.policy"


@dataclass(frozen=True, slots=True)
class PolicyServer:
    """The policy server that a room uses.

    server_name: the server that signs the room's events.
    public_key: base64, as the room's state has it. If it is no key, no signature verifies.
    """

    server_name: str
    public_key: str


def policy_server_of(policy: Event | None, joined_users: Iterable[UserId]) -> PolicyServer | None:
    """Return the policy server that a room uses, or None if it uses none.

    policy: the `m.room.policy` event with an empty state key in the current state.
    joined_users: the joined users in the current state. It may be a generator: it is read only if the event is valid,
        and only up to the first user of that server.
    Spec: server-server API, "Determining if a Policy Server is enabled in a room".
    """
    if policy is None:
        return None
    via, keys = policy.content.get("via"), policy.content.get("public_keys")
    key = keys.get("ed25519") if isinstance(keys, Mapping) else None
    if not isinstance(via, str) or not isinstance(key, str):
        return None
    if not any(colon and server == via for _, colon, server in (user_id.partition(":") for user_id in joined_users)):
        return None
    return PolicyServer(via, key)


def needs_policy_signature(event: Event) -> bool:
    """Return True if the event needs a policy server's signature: all but the event that names the policy server."""
    return not (event.type == _POLICY and event.state_key == "")


def check_policy_signature(version: RoomVersion, event: Event, policy: PolicyServer | None) -> Verdict:
    """Check 7: the policy server, if the room uses one, has signed the event. Return ACCEPT or SOFT_FAIL.

    Before the caller soft-fails an event it should request a signature from the policy server once, in case the key
    has changed. Spec: server-server API, "Validating Policy Server signatures".
    """
    if policy is None or not needs_policy_signature(event):
        return accept(7)
    try:
        key = parse_verify_key(policy.public_key)
        verify_pdu(version, event.pdu, policy.server_name, POLICY_KEY_ID, key)
    except SignatureError as error:
        return soft_fail(7, "", f"policy server: {error}")
    return accept(7)
