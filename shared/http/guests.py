"""The endpoints that guest accounts may call. Spec: client-server API, "Guest Access", client behaviour.

All other endpoints, new ones included, are refused to guests. Besides the spec's list these are endpoints that clients
need at every start, and endpoints about the guest alone.
"""

from shared.core.errors import MatrixError
from shared.http.endpoint import Auth, Endpoint

#: Names of endpoints.
_OF_THE_SPEC = frozenset(
    {
        # Retrieving events.
        "get_room_state",
        "get_event_context",
        "get_room_event",
        "get_room_state_event",
        "get_room_messages",
        "get_room_members",
        "get_room_initial_sync",
        "get_sync",
        "get_events",
        # Sending events. `m.room.guest_access` decides about joining.
        "join_room",
        "join_room_by_id_or_alias",
        "leave_room",
        "send_event",
        "set_state",
        "send_to_device",
        # The account. In the profile only the display name (`workers/client_api/people/profiles.py`).
        "set_profile_field",
        "delete_profile_field",
        "list_devices",
        "get_device",
        "set_device",
        "get_whoami",
        # Encryption.
        "upload_keys",
        "query_keys",
        "claim_keys",
    }
)
_BESIDES = frozenset(
    {
        "get_capabilities",
        "get_turn_server",
        "list_third_party_protocols",
        "logout",
        "logout_all",
        "create_filter",
        "get_filter",
        "get_account_data",
        "get_room_account_data",
        "list_tags",
        "get_push_rules",
        "get_global_push_rules",
        "get_push_rule",
        "get_push_rule_enabled",
        "get_push_rule_actions",
        "send_receipt",
        "set_read_markers",
        "set_typing",
        "list_joined_rooms",
        "sync_merged",
        "sync_deployed",
        # MSC4140, "Guest accounts": guests take part in calls.
        "schedule_delayed_event",
        "list_delayed_events",
        "get_delayed_event",
        "update_delayed_event",
        # MSC4306: nobody else learns of subscriptions.
        "set_thread_subscription",
        "get_thread_subscription",
        "delete_thread_subscription",
        "list_thread_subscriptions",
    }
)
GUESTS_MAY = _OF_THE_SPEC | _BESIDES
#: Endpoints that need no token, but are closed to guests.
_NOT_WITH_A_TOKEN = frozenset({"deactivate_account"})


def check_guest(endpoint: Endpoint) -> None:
    """Raise M_GUEST_ACCESS_FORBIDDEN unless a guest may call the endpoint."""
    needs_token = endpoint.auth is Auth.ACCESS_TOKEN
    if (needs_token and endpoint.name not in GUESTS_MAY) or endpoint.name in _NOT_WITH_A_TOKEN:
        raise guest_refused()


def guest_refused() -> MatrixError:
    """Return the error for guests. Spec: client-server API, "Guest Access"."""
    return MatrixError("M_GUEST_ACCESS_FORBIDDEN", "Guests cannot do this", 403)
