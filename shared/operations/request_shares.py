"""The shares of users in endpoints whose work is scarce. An endpoint's record names its kind of work (`Share`)."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from shared.config.sections import Places
from shared.config.sections import Shares as SharesConfig
from shared.core.addresses import address_key
from shared.core.errors import limit_exceeded
from shared.http.asgi import LARGE_BYTES
from shared.http.endpoint import Share
from shared.http.request import Handler, Pieces, Request, Response
from shared.runtime.fair_shares import FairShares

_RETRY_AFTER_S = 2.0
_NOT_COUNTED = nullcontext()
_WORDS: Mapping[Share, str] = {
    Share.POLLS: "requests of /sync",
    Share.SEARCHES: "searches",
    Share.HIERARCHIES: "requests of room hierarchies",
    Share.KEYS: "requests about the devices of many users",
    Share.HISTORY: "requests of room history",
    Share.STATES: "requests of room state",
}


class RequestShares:
    """The places of all kinds in this process."""

    def __init__(self, config: SharesConfig) -> None:
        self.by_kind: dict[Share, FairShares] = {}
        for kind, what in _WORDS.items():
            places: Places | None = getattr(config, kind.value)
            if places is None:
                continue
            # A poll takes its place for as long as its client likes, so there is no point in waiting for one.
            waiting = 0 if kind is Share.POLLS else config.waiting_per_user
            self.by_kind[kind] = FairShares(
                what,
                places.at_once,
                per_user=places.per_user,
                waiting_per_user=waiting,
                patience_s=config.patience_s,
            )

        self._most_untaken_bytes = config.untaken_bytes_per_user
        #: The bytes of large answers that are being sent, by user.
        self._untaken_bytes: dict[str, int] = {}

    def check_untaken(self, request: Request) -> None:
        """Raise M_LIMIT_EXCEEDED if the user's clients have not taken the large answers to earlier requests."""
        if self._untaken_bytes and self._untaken_bytes.get(_user(request), 0) > self._most_untaken_bytes:
            raise limit_exceeded(_RETRY_AFTER_S, "Take the answers to your earlier requests first")

    def sending(self, request: Request, response: Response) -> AbstractContextManager[None]:
        """Count a large answer for as long as its client has not taken it."""
        body = response.body
        if not isinstance(body, bytes) or len(body) <= LARGE_BYTES:
            return _NOT_COUNTED
        return self._counted(_user(request), len(body))

    @contextmanager
    def _counted(self, user: str, size_bytes: int) -> Iterator[None]:
        self._untaken_bytes[user] = self._untaken_bytes.get(user, 0) + size_bytes
        try:
            yield
        finally:
            self._untaken_bytes[user] -= size_bytes
            if not self._untaken_bytes[user]:
                del self._untaken_bytes[user]

    async def serve(self, handler: Handler, request: Request) -> Response:
        """Return the handler's response. A long one holds its place until it is sent. Raises M_LIMIT_EXCEEDED."""
        shares = self.by_kind.get(request.endpoint.share)
        if shares is None:
            return await handler(request)
        user = _user(request)
        await shares.take(user)
        try:
            response = await handler(request)
        except BaseException:
            shares.give(user)
            raise
        if isinstance(response.body, bytes):
            shares.give(user)
        else:
            response.body = _HeldPieces(response.body, shares, user)
        return response


def _user(request: Request) -> str:
    requester = request.requester
    return f"address:{address_key(request.client_address)}" if requester is None else requester.user_id


class _HeldPieces:
    """The pieces of a long answer, which holds its place until it is closed."""

    def __init__(self, pieces: Pieces, shares: FairShares, user: str) -> None:
        self._pieces = pieces
        self._shares = shares
        self._user = user
        self._is_open = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces.__aiter__()

    async def aclose(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        try:
            await self._pieces.aclose()
        finally:
            self._shares.give(self._user)
