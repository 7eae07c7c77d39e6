"""The bytes that users may send to devices: a budget that refills, in the process that owns the sender.

How much a message takes is known once it is stored, for "*" stands for all devices of a user. So the last message
before a refusal may exceed the budget, and the debt is paid back before the next one.
"""

from shared.cache.byte_budget import ByteBudgetCache
from shared.cache.sizes import text_size
from shared.config.sections import Quotas
from shared.core.errors import limit_exceeded
from shared.core.identifiers import UserId
from shared.runtime.clock import Clock

#: Senders who are forgotten begin with a full budget.
_BUDGET_BYTES = 8 << 20
_ENTRY_BYTES = 330  # measured with tracemalloc, without the user id


class SendAllowances:
    def __init__(self, quotas: Quotas, clock: Clock) -> None:
        self._rate = quotas.sent_to_devices_bytes_per_s
        self._burst = quotas.sent_to_devices_burst_bytes
        self._clock = clock
        #: user -> (bytes left at a time, that time).
        self._left: ByteBudgetCache[UserId, tuple[float, float]] = ByteBudgetCache(_BUDGET_BYTES)

    def check(self, user_id: UserId) -> None:
        """Raise M_LIMIT_EXCEEDED while the user has sent too much."""
        left = self._left_of(user_id)
        if left < 0:
            raise limit_exceeded(-left / self._rate)

    def spend(self, user_id: UserId, sent_bytes: int) -> None:
        """Take what was sent from the user's budget."""
        left = self._left_of(user_id) - sent_bytes
        self._left.put(user_id, (left, self._clock.monotonic_s()), _ENTRY_BYTES + text_size(user_id))

    def _left_of(self, user_id: UserId) -> float:
        known = self._left.get(user_id)
        if known is None:
            return self._burst
        left, at_s = known
        return min(self._burst, left + (self._clock.monotonic_s() - at_s) * self._rate)
