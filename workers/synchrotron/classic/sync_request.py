"""The parameters of GET /sync, checked. Spec: client-server API, GET /sync."""

from dataclasses import dataclass

from shared.cache.byte_budget import OWNED_ENTRY_BYTES, SharedBudgetCache
from shared.cache.sizes import deep_size, text_size
from shared.core.canonical_json import decode_json
from shared.core.errors import MatrixError, invalid_param
from shared.core.filters import Filter, parse_filter
from shared.core.identifiers import UserId
from shared.core.presence import STATES, UNSET
from shared.http.request import Request
from shared.storage.engine.pool import Source
from shared.storage.user_data.account_data import get_filter_json

_MAX_INLINE_CHARS = 2_000  # of an inline filter that is kept: clients of one kind send the same short one
_ID_KEY_BYTES = 100  # the pair of a user id, which the user's session has in memory, and a number
_SHARES = 8  # of the budget: what the filters of one user may take is one of them


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRequest:
    """The parsed parameters."""

    user_id: UserId
    device_id: str | None
    device_created_ms: int = 0
    #: The token as text, None for an initial sync.
    since: str | None = None
    full_state: bool = False
    #: How long to wait for updates, at most.
    timeout_s: float = 0.0
    #: The response's key for the state after the timeline. None: the client wants the state before it, as `state`.
    state_after: str | None = None
    filter: Filter
    #: `set_presence`, "" without.
    presence: str = UNSET


class Filters:
    """Filters by id and inline filters, each parsed once as long as it is kept.

    A user's filters take an eighth of `budget_bytes` at most. One that is larger than that is parsed for each request.
    """

    def __init__(self, reads: Source, budget_bytes: int) -> None:
        self._reads = reads
        #: By (user id, filter id), or by the text of an inline filter.
        self._parsed: SharedBudgetCache[tuple[str, int] | str, Filter] = SharedBudgetCache(
            budget_bytes, budget_bytes // _SHARES
        )

    async def get(self, user_id: UserId, text: str | None) -> Filter:
        """Return the filter of a query parameter, which is an id, JSON or absent.

        Raises M_NOT_JSON, M_BAD_JSON, M_INVALID_PARAM.
        """
        if not text:
            return _EVERYTHING
        known = self._parsed.get(text)
        if known is not None:
            return known
        if text.lstrip().startswith("{"):
            known = parse_filter(decode_json(text.encode()))
            if len(text) <= _MAX_INLINE_CHARS:
                self._keep(text, known, user_id)
            return known
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise invalid_param("filter must be JSON or the id of a filter of this user")
        key = (user_id, int(text))
        known = self._parsed.get(key)
        if known is None:
            json = await get_filter_json(self._reads, user_id, key[1])
            if json is None:
                raise invalid_param("filter must be JSON or the id of a filter of this user")
            known = parse_filter(decode_json(json))
            self._keep(key, known, user_id)
        return known

    def _keep(self, key: tuple[str, int] | str, parsed: Filter, user_id: UserId) -> None:
        key_bytes = text_size(key) if isinstance(key, str) else _ID_KEY_BYTES
        self._parsed.put(key, parsed, OWNED_ENTRY_BYTES + key_bytes + deep_size(parsed), user_id)


_EVERYTHING = Filter()

#: Clients that use the parameter's unstable name read the response under the unstable name only (matrix-js-sdk 43).
_STATE_AFTER = {
    "use_state_after": "state_after",
    "org.matrix.msc4222.use_state_after": "org.matrix.msc4222.state_after",
}


async def parse_sync_request(request: Request, filters: Filters, max_timeout_ms: int) -> SyncRequest:
    """Parse a request. Raises M_INVALID_PARAM, and as `Filters.get` does."""
    presence = request.query_choice("set_presence", STATES) or UNSET
    full_state = request.query_bool("full_state")
    timeout_ms = request.query_int("timeout", 0, maximum=max_timeout_ms)
    user = request.user
    try:
        wanted = await filters.get(user.user_id, request.query_text("filter"))
    except UnicodeEncodeError as error:
        raise MatrixError("M_NOT_JSON", "The filter has text that is not valid Unicode") from error
    return SyncRequest(
        user_id=user.user_id,
        device_id=user.device_id,
        device_created_ms=user.device_created_ms,
        since=request.query_text("since") or None,
        full_state=full_state,
        timeout_s=timeout_ms / 1000,
        state_after=next((key for parameter, key in _STATE_AFTER.items() if request.query_bool(parameter)), None),
        filter=wanted,
        presence=presence,
    )
