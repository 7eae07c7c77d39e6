"""The work that users' own push rules may cause with an event, counted in steps.

A step is a condition, or a part of a search in a text (`shared/core/globs.py`): about a microsecond at worst. The
default rules cost none, and are always evaluated. If a user's own rules would take more than the user's share, the rest
of them count as not matching. The endpoint refuses rules that would do so with an ordinary message (`validation.py`),
so this happens with very large messages, or where very many users of one room have patterns.
"""

from typing import Final

#: For one user and event. A user has a few hundred conditions at most, and an ordinary pattern takes 5 to 50 steps.
STEPS_PER_USER: Final = 4_000
#: For all users of a room whose rules are counted, in equal shares.
STEPS_PER_EVENT: Final = 40_000
#: The least share, however many users there are.
LEAST_STEPS: Final = 20
#: Rule sets with fewer conditions and no searches are not counted: evaluating them takes no longer than counting.
UNCOUNTED_STEPS: Final = 32
#: Characters in the body of an ordinary message, for the check of a user's rules.
ORDINARY_BODY: Final = 2_048


def share_of(users: int) -> int:
    """Return the steps for each of this number of users and groups."""
    return max(LEAST_STEPS, min(STEPS_PER_USER, STEPS_PER_EVENT // max(users, 1)))
