"""Places that requests take: so many for each user, and so many in all."""

from shared.core.errors import MatrixError, Unavailable
from shared.core.identifiers import UserId
from shared.http.request import Requester
from shared.metrics.http import HttpMetrics

_RETRY_AFTER_S = 1.0


class Places:
    """Counts what users hold at present.

    name: of the thing, in the plural, for the error and the metric.
    per_user: most for one user; None: no limit.
    in_all: most for all users together; None: no limit.
    """

    def __init__(self, name: str, *, per_user: int | None, in_all: int | None, metrics: HttpMetrics) -> None:
        self._name = name
        self._per_user = per_user
        self._in_all = in_all
        self._metrics = metrics
        self._by_user: dict[UserId, int] = {}
        self._total = 0

    def take(self, requester: Requester | None) -> None:
        """Take one, for which `give_back` must follow.

        requester: None if the request has no user: such requests count for the total only.
        Raises M_LIMIT_EXCEEDED (429) if the user has too many, Unavailable (503) if all users together have.
        """
        if self._in_all is not None and self._total >= self._in_all:
            self._metrics.turned_away(self._name)
            raise Unavailable(f"Too many {self._name.replace('_', ' ')} are under way. Try again later", _RETRY_AFTER_S)
        if requester is not None:
            held = self._by_user.get(requester.user_id, 0)
            if self._per_user is not None and held >= self._per_user:
                self._metrics.turned_away(self._name)
                raise MatrixError(
                    "M_LIMIT_EXCEEDED",
                    f"At most {self._per_user} {self._name.replace('_', ' ')} of one user may be under way."
                    " Wait for the answers of earlier ones",
                    429,
                    {"retry_after_ms": round(_RETRY_AFTER_S * 1000)},
                )
            self._by_user[requester.user_id] = held + 1
        self._total += 1

    def give_back(self, requester: Requester | None) -> None:
        self._total -= 1
        if requester is not None:
            left = self._by_user[requester.user_id] - 1
            if left:
                self._by_user[requester.user_id] = left
            else:
                del self._by_user[requester.user_id]
