"""What guest accounts may not do. Spec: client-server API, "Guest Access".

The spec lists what they may do. Beside that we leave them what reads or tells nothing of others (capabilities, filters,
push rules, their own receipts, logging out): clients call these at every start and would not come up without.
"""

from collections.abc import Mapping

from shared.core.errors import MatrixError
from shared.http.request import Request, Response
from shared.http.server import Handler

FORBIDDEN = frozenset(
    {
        "change_password",
        "deactivate_account",
        "delete_device",
        "delete_devices",
        "set_account_data",
        "set_room_account_data",
        "set_tag",
        "delete_tag",
        "set_room_alias",
        "delete_room_alias",
        "list_room_aliases",
        "set_room_visibility",
        "get_key_changes",
        "set_presence",
        "search_users",
        "get_presence",
    }
)
_PROFILE = frozenset({"set_profile_field", "delete_profile_field"})


def refuse_guests(handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    """Return the handlers, those that are not for guests with a check before them."""
    return {
        name: _refusing(handler) if name in FORBIDDEN or name in _PROFILE else handler
        for name, handler in handlers.items()
    }


def _refusing(handler: Handler) -> Handler:
    async def handle(request: Request) -> Response:
        own_name = request.endpoint.name in _PROFILE and request.params["keyName"] == "displayname"
        if request.requester is not None and request.requester.is_guest and not own_name:
            raise MatrixError("M_GUEST_ACCESS_FORBIDDEN", "Guests may not do this", 403)
        return await handler(request)

    return handle
