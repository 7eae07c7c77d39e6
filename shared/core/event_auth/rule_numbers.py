"""The numbers of the authorization rules.

They differ between room versions, since rules come and go. They are computed from the flags of the version, so that
an error names the rule as the page of that version does.
"""

from shared.core.errors import AuthRuleViolation
from shared.core.room_versions import RoomVersion


def violation(version: RoomVersion, rule: str, sub_rule: str, message: str) -> AuthRuleViolation:
    """Return the error for a broken rule.

    rule: a name in the lists below; "/" separates parts, as in "member/join".
    sub_rule: the number below the rule, such as "3.2".
    """
    number = _number(version, rule)
    full = f"{number}.{sub_rule}" if sub_rule else number
    return AuthRuleViolation(f"{full} {rule}", message, f"rooms/v{version.name}#authorisation-rules")


def _number(version: RoomVersion, rule: str) -> str:
    top, _, part = rule.partition("/")
    number = str(_rules(version).index(top) + 1)
    if not part:
        return number
    parts = _member_rules(version) if top == "member" else _power_level_rules(version)
    return f"{number}.{parts.index(part) + 1}"


def _rules(version: RoomVersion) -> list[str]:
    return [
        "create",
        *(["room_id"] if version.room_id_is_create_hash else []),
        "auth_events",
        "federate",
        *(["aliases"] if version.aliases_rule else []),
        "member",
        "joined",
        "third_party_invite",
        "level",
        "state_key",
        "power_levels",
        *(["redaction"] if version.redaction_rule else []),
    ]


def _member_rules(version: RoomVersion) -> list[str]:
    return [
        "form",
        *(["authorised"] if version.restricted else []),
        "join",
        "invite",
        "leave",
        "ban",
        *(["knock"] if version.knocking else []),
        "unknown",
    ]


def _power_level_rules(version: RoomVersion) -> list[str]:
    return [
        *(["integers", "maps"] if version.integer_power_levels else []),
        "users",
        *(["creators"] if version.creators_outrank_all else []),
        "first",
        "properties",
        "old_entries",
        "new_entries",
        "old_users",
        "new_users",
    ]
