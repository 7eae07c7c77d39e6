"""What of their profiles guest accounts may change. Spec: client-server API, "Guest Access": the display name only.

Which endpoints they may call at all: `shared/http/guests.py`.
"""

from shared.http.guests import guest_refused
from shared.http.request import Handler, Request, Response


def only_the_name(handler: Handler) -> Handler:
    """Return a handler of profile fields that refuses guests all but `displayname`."""

    async def handle(request: Request) -> Response:
        if request.user.is_guest and request.params["keyName"] != "displayname":
            raise guest_refused()
        return await handler(request)

    return handle
