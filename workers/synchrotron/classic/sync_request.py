"""The parameters of GET /sync, checked. Spec: client-server API, GET /sync."""

from dataclasses import dataclass

from shared.core.canonical_json import decode_json
from shared.core.errors import MatrixError, invalid_param
from shared.core.filters import Filter, parse_filter
from shared.core.identifiers import UserId
from shared.core.presence import STATES, UNSET
from shared.http.request import Request
from shared.storage.engine.pool import Source
from shared.storage.user_data.account_data import get_filter_json

_MAX_FILTERS = 10_000
_MAX_INLINE = 500  # clients of one kind send the same filter
_MAX_INLINE_CHARS = 2_000


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
    """Filters by id and inline filters, each parsed once."""

    def __init__(self, reads: Source) -> None:
        self._reads = reads
        self._parsed: dict[tuple[str, int], Filter] = {}
        self._inline: dict[str, Filter] = {}

    async def get(self, user_id: UserId, text: str | None) -> Filter:
        """Return the filter of a query parameter, which is an id, JSON or absent.

        Raises M_NOT_JSON, M_BAD_JSON, M_INVALID_PARAM.
        """
        if not text:
            return _EVERYTHING
        known = self._inline.get(text)
        if known is not None:
            return known
        if text.lstrip().startswith("{"):
            known = parse_filter(decode_json(text.encode()))
            if len(text) <= _MAX_INLINE_CHARS:
                if len(self._inline) >= _MAX_INLINE:
                    self._inline.pop(next(iter(self._inline)))
                self._inline[text] = known
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
            if len(self._parsed) >= _MAX_FILTERS:
                self._parsed.pop(next(iter(self._parsed)))
            self._parsed[key] = known
        return known


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
