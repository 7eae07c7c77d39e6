"""The parameters of GET /sync, checked. Spec: client-server API, GET /sync."""

from dataclasses import dataclass

from shared.core.canonical_json import decode_json
from shared.core.errors import MatrixError, invalid_param
from shared.core.filters import Filter, parse_filter
from shared.core.presence import STATES, UNSET
from shared.http.request import Request
from shared.storage.engine.pool import Source
from shared.storage.user_data.account_data import get_filter_json

_MAX_FILTERS = 10_000
_MAX_INLINE = 500  # clients of one kind send the same
_MAX_INLINE_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """since: the token as it came, None without one; timeout_s: how long to wait for news, at most.

    state_after: the key for the state behind the timeline; None: the client wants that before it, as `state`.
    presence: `set_presence`, "" without.
    """

    user_id: str
    device_id: str | None
    since: str | None
    full_state: bool
    timeout_s: float
    state_after: str | None
    filter: Filter
    presence: str = UNSET


class Filters:
    """Filters by id, and those that come as JSON with each request, parsed once: neither changes. reads: counted."""

    def __init__(self, reads: Source) -> None:
        self._reads = reads
        self._parsed: dict[tuple[str, int], Filter] = {}
        self._inline: dict[str, Filter] = {}

    async def get(self, user_id: str, text: str | None) -> Filter:
        """Return the filter of a query parameter: an id, JSON, or nothing.

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
            raise invalid_param("There is no such filter")
        key = (user_id, int(text))
        known = self._parsed.get(key)
        if known is None:
            json = await get_filter_json(self._reads, user_id, key[1])
            if json is None:
                raise invalid_param("There is no such filter")
            known = parse_filter(decode_json(json))
            if len(self._parsed) >= _MAX_FILTERS:
                self._parsed.pop(next(iter(self._parsed)))
            self._parsed[key] = known
        return known


_EVERYTHING = Filter()

#: Who asks under the name that the parameter had before the spec took it up reads the answer under the old name only
#: (matrix-js-sdk 43).
_STATE_AFTER = {
    "use_state_after": "state_after",
    "org.matrix.msc4222.use_state_after": "org.matrix.msc4222.state_after",
}


async def parse_sync_request(request: Request, filters: Filters, max_timeout_ms: int) -> SyncRequest:
    """Raises M_INVALID_PARAM and what a filter's errors are."""
    presence = request.query_choice("set_presence", STATES) or UNSET
    full_state = request.query_bool("full_state")
    timeout_ms = request.query_int("timeout", 0, maximum=max_timeout_ms)
    user = request.user
    try:
        wanted = await filters.get(user.user_id, request.query_text("filter"))
    except UnicodeEncodeError as error:
        raise MatrixError("M_NOT_JSON", "The filter is not valid text") from error
    return SyncRequest(
        user.user_id,
        user.device_id,
        request.query_text("since") or None,
        full_state,
        timeout_ms / 1000,
        next((key for parameter, key in _STATE_AFTER.items() if request.query_bool(parameter)), None),
        wanted,
        presence,
    )
