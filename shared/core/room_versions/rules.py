"""The decisions of a room version, one field each. Spec: rooms/ (a page for each version)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class EventIdFormat(Enum):
    """The origin of an event's id."""

    ON_WIRE = "on the wire"  # "$opaque:server", chosen by the server that made the event
    HASH_BASE64 = "hash, standard base64"  # may hold "/" and "+"
    HASH_URLSAFE = "hash, URL-safe base64"


class StateResolution(Enum):
    """The algorithm that resolves a fork. Spec: rooms/v1, rooms/v2, rooms/v12, "State resolution"."""

    V1 = "1"
    V2 = "2"
    V2_1 = "2.1"


@dataclass(frozen=True, slots=True)
class RedactionRules:
    """The keys of an event that a redaction keeps. Spec: rooms/v1, v6, v8, v9, v11, "Redactions".

    event_keys: top-level keys.
    content_keys: event type -> keys of `content`. Other types keep none.
    whole_create_content: True if `m.room.create` keeps its whole content.
    third_party_signed: True if `m.room.member` keeps `third_party_invite.signed`, but nothing else of that object.
    """

    event_keys: frozenset[str]
    content_keys: Mapping[str, frozenset[str]]
    whole_create_content: bool
    third_party_signed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomVersion:
    """The rules of one room version. `versions.py` has the values for each version.

    Format
        event_id_format: the origin of the id.
        references_with_hashes: `prev_events` and `auth_events` are [id, {"sha256": hash}] pairs, not ids.
        room_id_is_create_hash: the room id is the create event's id with "!", and that event has no `room_id`.
        strict_canonical_json: numbers are integers within 53 bits. Others are M_BAD_JSON, or the event is dropped.
        limits_in_bytes: the limit of 255 for `type`, `state_key` and so on counts bytes in events of other servers,
            else code points, since older rooms have such events. Events of this server are always limited in bytes.
        max_depth: the greatest value of `depth`, inclusive.
        redacts_in_content: `redacts` is a key of the content, not of the event.
    Signatures
        event_id_server_signs: the server in the event id must have signed too.
        key_validity_enforced: the key must have been valid at `origin_server_ts`.
    Authorization
        creator_in_content: `creator` in the create event's content is the creator, else the sender is.
        additional_creators: the create event's content may name more creators.
        creators_outrank_all: creators have infinite power and must not be in `users`.
        create_in_auth_events: the create event is among the auth events, else it must not be.
        aliases_rule: any server may send `m.room.aliases` about itself.
        redaction_rule: redactions are accepted only with the redact level, or from the same server.
        knocking / restricted / knock_restricted: these join rules (and the membership `knock`) exist.
        integer_power_levels: levels are integers, else also strings of integers.
        float_power_levels: floats are accepted too, and truncated.
        notification_levels_checked: entries of `notifications` are protected like those of `events`.
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
