"""Room versions 1 to 12, each as a change of the previous one. Spec: rooms/v1 to rooms/v12."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from shared.core.errors import MatrixError
from shared.core.room_versions.rules import EventIdFormat, RedactionRules, RoomVersion, StateResolution

#: Spec: rooms/, "Complete list of room versions" (default for new rooms since v1.16).
DEFAULT_ROOM_VERSION = "12"

_REDACTION_V1 = RedactionRules(
    event_keys=frozenset(
        {
            "event_id",
            "type",
            "room_id",
            "sender",
            "state_key",
            "content",
            "hashes",
            "signatures",
            "depth",
            "prev_events",
            "prev_state",
            "auth_events",
            "origin",
            "origin_server_ts",
            "membership",
        }
    ),
    content_keys=MappingProxyType(
        {
            "m.room.member": frozenset({"membership"}),
            "m.room.create": frozenset({"creator"}),
            "m.room.join_rules": frozenset({"join_rule"}),
            "m.room.power_levels": frozenset(
                {"ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"}
            ),
            "m.room.aliases": frozenset({"aliases"}),
            "m.room.history_visibility": frozenset({"history_visibility"}),
        }
    ),
    whole_create_content=False,
    third_party_signed=False,
)


def _keeping(rules: RedactionRules, **more: set[str]) -> Mapping[str, frozenset[str]]:
    """Return the rules' content keys with more keys added. The keyword `member` means `m.room.member`."""
    keys = dict(rules.content_keys)
    for short_type, added in more.items():
        full_type = f"m.room.{short_type}"
        keys[full_type] = keys.get(full_type, frozenset()) | added
    return MappingProxyType(keys)


_REDACTION_V6 = replace(
    _REDACTION_V1,
    content_keys=MappingProxyType(
        {kind: keys for kind, keys in _REDACTION_V1.content_keys.items() if kind != "m.room.aliases"}
    ),
)
_REDACTION_V8 = replace(_REDACTION_V6, content_keys=_keeping(_REDACTION_V6, join_rules={"allow"}))
_REDACTION_V9 = replace(
    _REDACTION_V8, content_keys=_keeping(_REDACTION_V8, member={"join_authorised_via_users_server"})
)
_REDACTION_V11 = replace(
    _REDACTION_V9,
    event_keys=_REDACTION_V9.event_keys - {"prev_state", "origin", "membership"},
    content_keys=_keeping(_REDACTION_V9, power_levels={"invite"}, redaction={"redacts"}),
    whole_create_content=True,
    third_party_signed=True,
)

_V1 = RoomVersion(
    name="1",
    event_id_format=EventIdFormat.ON_WIRE,
    references_with_hashes=True,
    room_id_is_create_hash=False,
    strict_canonical_json=False,
    limits_in_bytes=False,
    max_depth=2**63 - 1,
    redacts_in_content=False,
    event_id_server_signs=True,
    key_validity_enforced=False,
    creator_in_content=True,
    additional_creators=False,
    creators_outrank_all=False,
    create_in_auth_events=True,
    aliases_rule=True,
    redaction_rule=True,
    knocking=False,
    restricted=False,
    knock_restricted=False,
    integer_power_levels=False,
    float_power_levels=True,
    notification_levels_checked=False,
    redaction=_REDACTION_V1,
    state_resolution=StateResolution.V1,
)
_V2 = replace(_V1, name="2", state_resolution=StateResolution.V2)
_V3 = replace(
    _V2,
    name="3",
    event_id_format=EventIdFormat.HASH_BASE64,
    references_with_hashes=False,
    event_id_server_signs=False,
    redaction_rule=False,
)
_V4 = replace(_V3, name="4", event_id_format=EventIdFormat.HASH_URLSAFE)
_V5 = replace(_V4, name="5", key_validity_enforced=True)
_V6 = replace(
    _V5,
    name="6",
    strict_canonical_json=True,
    max_depth=2**53 - 1,
    aliases_rule=False,
    float_power_levels=False,
    notification_levels_checked=True,
    redaction=_REDACTION_V6,
)
_V7 = replace(_V6, name="7", knocking=True)
_V8 = replace(_V7, name="8", restricted=True, redaction=_REDACTION_V8)
_V9 = replace(_V8, name="9", redaction=_REDACTION_V9)
_V10 = replace(_V9, name="10", knock_restricted=True, integer_power_levels=True)
_V11 = replace(
    _V10,
    name="11",
    limits_in_bytes=True,
    redacts_in_content=True,
    creator_in_content=False,
    redaction=_REDACTION_V11,
)
_V12 = replace(
    _V11,
    name="12",
    room_id_is_create_hash=True,
    additional_creators=True,
    creators_outrank_all=True,
    create_in_auth_events=False,
    state_resolution=StateResolution.V2_1,
)

ROOM_VERSIONS: Mapping[str, RoomVersion] = MappingProxyType(
    {version.name: version for version in (_V1, _V2, _V3, _V4, _V5, _V6, _V7, _V8, _V9, _V10, _V11, _V12)}
)


def get_room_version(name: str) -> RoomVersion:
    """Return the rules of the room version. Raises MatrixError 400 M_UNSUPPORTED_ROOM_VERSION."""
    try:
        return ROOM_VERSIONS[name]
    except (KeyError, TypeError):
        raise MatrixError("M_UNSUPPORTED_ROOM_VERSION", "This server does not know this room version") from None
