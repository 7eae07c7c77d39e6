"""What a room version decides, one field for each decision. Spec: rooms/ (a page for each version)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class EventIdFormat(Enum):
    """Where an event's id comes from."""

    ON_WIRE = "on the wire"  # "$opaque:server", given by the server that made the event
    HASH_BASE64 = "hash, standard base64"  # may hold "/" and "+"
    HASH_URLSAFE = "hash, URL-safe base64"


class StateResolution(Enum):
    """Which algorithm resolves a fork. Spec: rooms/v1, rooms/v2, rooms/v12, "State resolution"."""

    V1 = "1"
    V2 = "2"
    V2_1 = "2.1"


@dataclass(frozen=True, slots=True)
class RedactionRules:
    """What a redaction leaves of an event. Spec: rooms/v1, v6, v8, v9, v11, "Redactions".

    event_keys: top-level keys that stay.
    content_keys: event type -> keys of `content` that stay; types that are not named keep none.
    whole_create_content: `m.room.create` keeps its whole content.
    third_party_signed: `m.room.member` keeps `third_party_invite.signed`, and of that object nothing else.
    """

    event_keys: frozenset[str]
    content_keys: Mapping[str, frozenset[str]]
    whole_create_content: bool
    third_party_signed: bool


@dataclass(frozen=True, slots=True)
class RoomVersion:
    """The rules of one room version; `versions.py` says which version has which.

    Format
        event_id_format: where the id comes from.
        references_with_hashes: `prev_events` and `auth_events` are [id, {"sha256": hash}] pairs, not ids.
        room_id_is_create_hash: the room id is the create event's id with "!", and that event carries no `room_id`.
        strict_canonical_json: only integers within 53 bits; anything else is M_BAD_JSON, or dropped.
        limits_in_bytes: the 255 of `type`, `state_key` and the like is counted in bytes for what others made,
            else in code points (older rooms hold such events; what we make is always held to bytes).
        max_depth: greatest value of `depth`, inclusive.
        redacts_in_content: `redacts` is a key of the content, not of the event.
    Signatures
        event_id_server_signs: the server named in the event id must have signed too.
        key_validity_enforced: the key must have been valid at `origin_server_ts`.
    Authorization
        creator_in_content: `creator` in the create event's content names the creator, else the sender is.
        additional_creators: the create event's content may name more creators.
        creators_outrank_all: creators have infinite power and may not stand in `users`.
        create_in_auth_events: the create event is among the auth events, else it must not be.
        aliases_rule: `m.room.aliases` may be sent by any server about itself.
        redaction_rule: redactions need the redact level, or the same server, to be accepted at all.
        knocking / restricted / knock_restricted: join rules (and the membership `knock`) that exist.
        integer_power_levels: values are integers, else also strings of integers.
        float_power_levels: floats pass too, and are cut at the point.
        notification_levels_checked: entries of `notifications` are guarded as those of `events`.
    """

    name: str
    event_id_format: EventIdFormat
    references_with_hashes: bool
    room_id_is_create_hash: bool
    strict_canonical_json: bool
    limits_in_bytes: bool
    max_depth: int
    redacts_in_content: bool
    event_id_server_signs: bool
    key_validity_enforced: bool
    creator_in_content: bool
    additional_creators: bool
    creators_outrank_all: bool
    create_in_auth_events: bool
    aliases_rule: bool
    redaction_rule: bool
    knocking: bool
    restricted: bool
    knock_restricted: bool
    integer_power_levels: bool
    float_power_levels: bool
    notification_levels_checked: bool
    redaction: RedactionRules
    state_resolution: StateResolution
