"""The verdict of a check on an event."""

from dataclasses import dataclass
from enum import Enum

#: Reasons go into logs and rows, and some quote keys of the event, which may have thousands of characters.
_MAX_REASON_CHARS = 200


class Outcome(Enum):
    """The consequence for the event. Spec: server-server API, "Rejection", "Soft failure".

    DROP: as if the event had never arrived.
    REJECT: stored as part of the graph, but never shown, extended, or part of the state.
    SOFT_FAIL: accepted in state resolution and towards other servers, but neither shown nor extended.
    """

    ACCEPT = "accept"
    SOFT_FAIL = "soft-fail"
    REJECT = "reject"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one check.

    check: its number in the spec's list, 1 to 7.
    rule: the broken authorization rule, such as "5.3.1 member/join"; "" for other checks.
    reason: for logs and operators, at most 200 characters; "" if the check has passed.
    """

    outcome: Outcome
    check: int
    rule: str = ""
    reason: str = ""

    @property
    def passed(self) -> bool:
        return self.outcome is Outcome.ACCEPT


def accept(check: int) -> Verdict:
    """Return the verdict for an event that has passed this check."""
    return Verdict(Outcome.ACCEPT, check)


def drop(check: int, reason: str) -> Verdict:
    """Return the verdict for an event that this check drops."""
    return Verdict(Outcome.DROP, check, "", _cut(reason))


def reject(check: int, rule: str, reason: str) -> Verdict:
    """Return the verdict for an event that this check rejects."""
    return Verdict(Outcome.REJECT, check, rule, _cut(reason))


def soft_fail(check: int, rule: str, reason: str) -> Verdict:
    """Return the verdict for an event that this check soft-fails."""
    return Verdict(Outcome.SOFT_FAIL, check, rule, _cut(reason))


def _cut(reason: str) -> str:
    return reason if len(reason) <= _MAX_REASON_CHARS else reason[: _MAX_REASON_CHARS - 1] + "…"
