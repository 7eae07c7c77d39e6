"""The gate between a process's listener and its application. The listener stays when the application is replaced.

A process that lost its lease drops its state and rejoins the fleet, on the same port. In between, requests get 503 with
Retry-After. Requests under way get it too, since their answers would come from memory that is void. The lease is also
checked when an answer begins, since a process that was stopped and resumed learns of its lost lease only some time
after the first requests.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.core.errors import Unavailable
from shared.http.asgi import AsgiApplication, Receive, Send, send_response
from shared.http.errors_to_json import response_for
from shared.http.process_pages import PAGES
from shared.http.request import Response

logger = logging.getLogger(__name__)

_JOINING = "This process is joining the fleet"
_UNCONFIRMED = "The database has not confirmed the lease of this process in time: it may not answer until it does"


@dataclass(slots=True, eq=False)
class _Behind:
    """The application that serves now.

    under_way: the tasks of its requests.
    refused: requests refused since the lease was last confirmed in time.
    """

    application: AsgiApplication
    may_answer: Callable[[], bool]
    under_way: set["asyncio.Task[Any]"] = field(default_factory=set)
    closed: bool = False
    refused: int = 0

    def refusal(self) -> str | None:
        """Return why nothing may be answered now, or None."""
        if self.closed:
            return _JOINING
        if self.may_answer():
            if self.refused:
                logger.info("The lease is confirmed again; %d requests were refused with 503 meanwhile", self.refused)
                self.refused = 0
            return None
        if not self.refused:
            logger.warning("Requests are refused with 503: the database has not confirmed this process's lease in time")
        self.refused += 1
        return _UNCONFIRMED


class Gate:
    """The listener's ASGI application."""

    def __init__(self) -> None:
        self._behind: _Behind | None = None
        #: The time of the last request, by the loop's clock, except requests for pages of the process.
        self.last_request_s = 0.0

    def open(self, application: AsgiApplication, may_answer: Callable[[], bool]) -> None:
        """Pass requests to an application from now on."""
        self.close()
        self._behind = _Behind(application, may_answer)

    def close(self) -> None:
        """Refuse requests from now on, and cancel those under way."""
        behind, self._behind = self._behind, None
        if behind is not None:
            behind.closed = True
            for task in behind.under_way:
                task.cancel()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        behind = self._behind
        if scope["raw_path"] in PAGES:
            # These pages are about the process, not its state, and work without an application.
            if behind is not None:
                await behind.application(scope, receive, send)
            else:
                await send_response(send, _page_of_nobody(scope["raw_path"]))
            return
        self.last_request_s = asyncio.get_running_loop().time()
        refusal = _JOINING if behind is None else behind.refusal()
        if behind is None or refusal is not None:
            await send_response(send, _not_now(refusal or _JOINING))
            return
        answer = _Answer(behind, send)
        task = asyncio.current_task()
        assert task is not None
        behind.under_way.add(task)
        try:
            await behind.application(scope, receive, answer.send)
        except asyncio.CancelledError:
            if not behind.closed or answer.begun:
                raise  # the client disconnected, or half an answer is sent: the connection ends
            task.uncancel()
            await send_response(send, _not_now(_JOINING))
        finally:
            behind.under_way.discard(task)


class _Answer:
    """An answer that is checked again when its first byte is sent, and replaced if it must not be given."""

    def __init__(self, behind: _Behind, send: Send) -> None:
        self._behind = behind
        self._send = send
        self._swallowed = False
        self.begun = False

    async def send(self, message: dict[str, Any]) -> None:
        if not self.begun:
            self.begun = True
            refusal = self._behind.refusal()
            self._swallowed = refusal is not None
            if refusal is not None:
                await send_response(self._send, _not_now(refusal))
        if not self._swallowed:
            await self._send(message)


def _not_now(why: str) -> Response:
    return response_for(Unavailable(why))


def _page_of_nobody(path: bytes) -> Response:
    if path == b"/health/live":
        return Response(orjson.dumps({"status": "live"}))
    return Response(orjson.dumps({"status": "not ready"}), 503)
