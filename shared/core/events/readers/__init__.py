"""Typed readers for the content of state events. Each reads only the requested field, and never fails.

Content comes from other servers. A field of the wrong type reads as absent, as the rules of the spec require.
"""

from shared.core.events.readers.create import (
    creators_of,
    federates,
    room_creator,
    room_type,
    room_version_name,
)
from shared.core.events.readers.history_visibility import HistoryVisibility, history_visibility_of
from shared.core.events.readers.join_rules import JoinRule, allowed_rooms, join_rule_of
from shared.core.events.readers.member import (
    Membership,
    authorising_user,
    avatar_url_of,
    display_name_of,
    membership_of,
)
from shared.core.events.readers.power_levels import INFINITE_POWER, PowerLevels, power_levels_of

__all__ = [
    "INFINITE_POWER",
    "HistoryVisibility",
    "JoinRule",
    "Membership",
    "PowerLevels",
    "allowed_rooms",
    "authorising_user",
    "avatar_url_of",
    "creators_of",
    "display_name_of",
    "federates",
    "history_visibility_of",
    "join_rule_of",
    "membership_of",
    "power_levels_of",
    "room_creator",
    "room_type",
    "room_version_name",
]
