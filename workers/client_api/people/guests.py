"""Limits on the profile changes of guests. Spec: client-server API, "Guest Access".

The list of endpoints that guests may call is `shared/http/guests.py`.
"""

from shared.http.guests import guest_refused
from shared.http.request import Handler, Request, Response


def guests_change_only_displayname(handler: Handler) -> Handler:
    """Return a handler of profile fields that lets guests change `displayname` only."""

    async def handle(request: Request) -> Response:
        if request.user.is_guest and request.params["keyName"] != "displayname":
            raise guest_refused()
        return await handler(request)

    return handle
