"""Power levels for tests of push rules."""

from collections.abc import Mapping

from shared.core.events.readers import PowerLevels


def default_levels(
    users: Mapping[str, int] | None = None, notifications: Mapping[str, int] | None = None
) -> PowerLevels:
    """Return the default levels with these entries for users and notifications."""
    return PowerLevels(
        users=users or {},
        events={},
        notifications=notifications or {},
        users_default=0,
        events_default=0,
        state_default=50,
        ban=50,
        kick=50,
        redact=50,
        invite=0,
        creators=frozenset(),
    )
