"""The user's thread subscriptions: the latest changes, and a token for earlier ones. Proposal: MSC4308."""

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
from shared.storage.user_data.thread_subscriptions import END, PRESENT, SubscriptionChange, get_subscription_changes
from workers.synchrotron.sliding.extensions.extension import NO_RESULT, ExtensionContext, ExtensionResult
from workers.synchrotron.sliding.pos import sync_token_in
from workers.synchrotron.waiting.sync_tokens import SyncTokens

_STREAM = THREAD_SUBSCRIPTIONS.name
_DEFAULT_LIMIT = 100
_MAX_LIMIT = 1000
_TOKEN_PREFIX = "t1-"  # noqa: S105 - no secret
_START = Vector()


class _Parameters(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=1, le=2**53)] = _DEFAULT_LIMIT


class ThreadSubscriptions:
    """The extension. Without `enabled` it sends nothing."""

    name = "io.element.msc4308.thread_subscriptions"
    per_room = False

    def __init__(self, reads: Source, *, enabled: bool) -> None:
        self._reads = reads
        self._enabled = enabled

    def check(self, parameters: Mapping[str, Any]) -> int:
        """Return the limit."""
        return min(convert(parameters, _Parameters).limit, _MAX_LIMIT)

    async def build(self, context: ExtensionContext, parameters: int) -> ExtensionResult:
        user, span = context.user, context.span
        if not self._enabled or (span.since_seq is not None and user.subscriptions_changed <= span.since_seq):
            return NO_RESULT
        since = _START if span.since is None else span.since.vector(_STREAM)
        changes = await get_subscription_changes(
            self._reads, user.user_id, since, span.now.vector(_STREAM), parameters + 1
        )
        if not changes:
            return NO_RESULT
        return ExtensionResult(_page(changes, parameters, "prev_batch"), empty=False)


class ThreadSubscriptionPages:
    """The endpoint for earlier changes."""

    def __init__(self, reads: Source, tokens: SyncTokens, *, enabled: bool) -> None:
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
        """GET /thread_subscriptions: backward, from a page's or the extension's token down to a `pos`.

        Raises M_INVALID_PARAM, M_MISSING_PARAM.
        """
        if not self._enabled:
            raise unrecognized()
        request.query_required("dir")
        request.query_choice("dir", ("b",))
        limit = request.query_int("limit", _DEFAULT_LIMIT, minimum=1, maximum=_MAX_LIMIT)
        before, since = _position_in(request.query_text("from")), _START
        if (to := request.query_text("to")) is not None:
            since = (await self._tokens.parse(sync_token_in(to))).vector(_STREAM)
        changes = await get_subscription_changes(self._reads, request.user.user_id, since, PRESENT, limit + 1, before)
        return json_response(_page(changes, limit, "end"))


def _page(changes: Sequence[SubscriptionChange], limit: int, token_key: str) -> dict[str, Any]:
    """Return the first `limit` changes as JSON, with a token under `token_key` if there are more."""
    page: dict[str, Any] = {"subscribed": {}, "unsubscribed": {}}
    for change in changes[:limit]:
        fields: dict[str, Any] = {"bump_stamp": change.position}
        if change.subscribed:
            fields["automatic"] = change.automatic
        rooms = page["subscribed" if change.subscribed else "unsubscribed"]
        rooms.setdefault(change.room_id, {})[change.thread_id] = fields
    if len(changes) > limit:
        page[token_key] = f"{_TOKEN_PREFIX}{changes[limit - 1].position}"
    return page


def _position_in(token: str | None) -> int:
    if token is None:
        return END
    digits = token.removeprefix(_TOKEN_PREFIX)
    if not (token.startswith(_TOKEN_PREFIX) and digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise invalid_param("from is not a token of this endpoint")
    return int(digits)
