"""What a check says about an event."""

from dataclasses import dataclass
from enum import Enum

#: Reasons end up in logs and rows, and some of them quote keys of the event, which may have thousands of characters.
_MAX_REASON_CHARS = 200


class Outcome(Enum):
    """What becomes of the event. Spec: server-server API, "Rejection", "Soft failure".

    DROP: as if it had never come. REJECT: kept as a place in the graph, never shown nor built upon, no state.
    SOFT_FAIL: as accepted in state resolution and towards other servers, but not shown and not built upon.
    """

    ACCEPT = "accept"
    SOFT_FAIL = "soft-fail"
    REJECT = "reject"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one check.

    check: its number in the spec's list, 1 to 7. rule: the broken authorization rule, such as "5.3.1 member/join",
    "" where none is. reason: for logs and operators, at most 200 characters; "" when the check has passed.
    """

    outcome: Outcome
    check: int
    rule: str = ""
    reason: str = ""

    @property
    def passed(self) -> bool:
        return self.outcome is Outcome.ACCEPT


def accept(check: int) -> Verdict:
    """Return that the event has passed this check."""
    return Verdict(Outcome.ACCEPT, check)


def drop(check: int, reason: str) -> Verdict:
    """Return that the event is dropped by this check."""
    return Verdict(Outcome.DROP, check, "", _cut(reason))


def reject(check: int, rule: str, reason: str) -> Verdict:
    """Return that the event is rejected by this check."""
    return Verdict(Outcome.REJECT, check, rule, _cut(reason))


def soft_fail(check: int, rule: str, reason: str) -> Verdict:
    """Return that the event is soft-failed by this check."""
    return Verdict(Outcome.SOFT_FAIL, check, rule, _cut(reason))


def _cut(reason: str) -> str:
    return reason if len(reason) <= _MAX_REASON_CHARS else reason[: _MAX_REASON_CHARS - 1] + "…"
