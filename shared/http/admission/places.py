"""Places that requests take: so many for each sender, and so many in all."""

from shared.core.errors import MatrixError, Unavailable
from shared.metrics.http import HttpMetrics

_RETRY_AFTER_S = 1.0


class Places:
    """Counts what the senders of requests hold at present.

    name: of the thing, in the plural, for the error and the metric.
    each: most for one sender; None: no limit.
    in_all: most for all senders together; None: no limit.
    """

    def __init__(self, name: str, *, each: int | None, in_all: int | None, metrics: HttpMetrics) -> None:
        self._name = name
        self._each = each
        self._in_all = in_all
        self._metrics = metrics
        self._by_sender: dict[str, int] = {}
        self._total = 0

    def take(self, sender: str, number: int = 1) -> None:
        """Take one or several, for which `give_back` must follow.

        sender: a user id or the key of an address.
        Raises M_LIMIT_EXCEEDED (429) if the sender has too many, Unavailable (503) if all together have.
        """
        if self._in_all is not None and self._total + number > self._in_all:
            self._metrics.turned_away(self._name)
            raise Unavailable(f"Too many {self._name.replace('_', ' ')} are under way. Try again later", _RETRY_AFTER_S)
        held = self._by_sender.get(sender, 0)
        if self._each is not None and held + number > self._each:
            self._metrics.turned_away(self._name)
            raise MatrixError(
                "M_LIMIT_EXCEEDED",
                f"At most {self._each} {self._name.replace('_', ' ')} of one sender may be under way."
                " Wait for the answers of earlier ones",
                429,
                {"retry_after_ms": round(_RETRY_AFTER_S * 1000)},
            )
        self._by_sender[sender] = held + number
        self._total += number

    def give_back(self, sender: str, number: int = 1) -> None:
        self._total -= number
        left = self._by_sender[sender] - number
        if left:
            self._by_sender[sender] = left
        else:
            del self._by_sender[sender]
