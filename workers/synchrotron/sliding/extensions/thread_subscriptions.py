"""Which threads the user has subscribed to, or left: the latest changes, and a token for those before. MSC4308."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from replication.streams import THREAD_SUBSCRIPTIONS
from shared.core.errors import invalid_param, unrecognized
from shared.core.sync_tokens.vector import Vector
from shared.http.endpoint import RateLimit
from shared.http.request import Request, Response, convert, json_response
from shared.http.serving import endpoint
from shared.storage.engine.pool import Source
from shared.storage.user_data.thread_subscriptions import END, PRESENT, SubscriptionChange, read_changes
from workers.synchrotron.sliding.extensions.extension import NOTHING, Asked, Told
from workers.synchrotron.sliding.pos import sync_token_in
from workers.synchrotron.waiting.sync_tokens import Tokens

_STREAM = THREAD_SUBSCRIPTIONS.name
_DEFAULT = 100
_MOST = 1000
_FROM = "t1-"
_START = Vector()


class _Parameters(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=1, le=2**53)] = _DEFAULT


class ThreadSubscriptions:
    """enabled: whether this server has them at all; else nothing is ever told."""

    name = "io.element.msc4308.thread_subscriptions"
    per_room = False

    def __init__(self, reads: Source, *, enabled: bool) -> None:
        self._reads = reads
        self._enabled = enabled

    def check(self, parameters: Mapping[str, Any]) -> int:
        """Return the limit."""
        return min(convert(parameters, _Parameters).limit, _MOST)

    async def tell(self, asked: Asked, parameters: int) -> Told:
        seq = asked.span.since_seq
        if not self._enabled or (seq is not None and asked.user.subscriptions_changed <= seq):
            return NOTHING
        since = _START if asked.span.since is None else asked.span.since.vector(_STREAM)
        changes = await read_changes(
            self._reads, asked.user.user_id, since, asked.span.now.vector(_STREAM), parameters + 1
        )
        if not changes:
            return NOTHING
        return Told(_page(changes, parameters, "prev_batch"), empty=False)


class ThreadSubscriptionPages:
    """The companion endpoint."""

    def __init__(self, reads: Source, tokens: Tokens, *, enabled: bool) -> None:
        self._reads = reads
        self._tokens = tokens
        self._enabled = enabled

    @endpoint(
        name="list_thread_subscriptions",
        method="GET",
        path="/_matrix/client/unstable/io.element.msc4308/thread_subscriptions",
        pool="room_reads",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="MSC4308",
    )
    async def list_thread_subscriptions(self, request: Request) -> Response:
        """GET /thread_subscriptions: backwards, from a page's or the extension's token, to a `pos`.

        Raises M_INVALID_PARAM, M_MISSING_PARAM.
        """
        if not self._enabled:
            raise unrecognized()
        request.query_required("dir")
        request.query_choice("dir", ("b",))
        limit = request.query_int("limit", _DEFAULT, minimum=1, maximum=_MOST)
        before, since = _position_in(request.query_text("from")), _START
        if (to := request.query_text("to")) is not None:
            since = (await self._tokens.parse(sync_token_in(to))).vector(_STREAM)
        changes = await read_changes(self._reads, request.user.user_id, since, PRESENT, limit + 1, before)
        return json_response(_page(changes, limit, "end"))


def _page(changes: Sequence[SubscriptionChange], limit: int, more: str) -> dict[str, Any]:
    """Return the first changes in the proposal's form. more: the key of the token for the rest, if there is any."""
    page: dict[str, Any] = {"subscribed": {}, "unsubscribed": {}}
    for change in changes[:limit]:
        told: dict[str, Any] = {"bump_stamp": change.position}
        if change.subscribed:
            told["automatic"] = change.automatic
        of_kind = page["subscribed" if change.subscribed else "unsubscribed"]
        of_kind.setdefault(change.room_id, {})[change.thread_id] = told
    if len(changes) > limit:
        page[more] = f"{_FROM}{changes[limit - 1].position}"
    return page


def _position_in(token: str | None) -> int:
    if token is None:
        return END
    digits = token.removeprefix(_FROM)
    if not (token.startswith(_FROM) and digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise invalid_param("The token is malformed")
    return int(digits)
