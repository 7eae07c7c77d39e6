"""The signatures that an event needs, and their verification.

Spec: server-server API, "Validating hashes and signatures on received events"; rooms/v5, "Signing key validity period".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from shared.core.errors import SignatureError
from shared.core.events.event import Event, parse_event
from shared.core.events.hashing import has_right_content_hash
from shared.core.events.redaction import redact_pdu
from shared.core.events.signatures import authorising_server, required_signers
from shared.core.identifiers import ServerName, is_server_name
from shared.core.room_versions import RoomVersion
from shared.core.signing import check_signature, signatures_of
from shared.core.signing.json_signatures import signature_by

#: The id of the key in `m.room.policy`. Spec: server-server API, "Validating Policy Server signatures".
POLICY_KEY_ID = "ed25519:policy_server"

#: No key counts as valid for longer than this from now. Spec: rooms/v5, "Signing key validity period".
MAX_KEY_VALIDITY_MS = 7 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A server's public key. Spec: server-server API, "Publishing Keys".

    key: 32 bytes. Anything else verifies nothing.
    valid_until_ts: for a key in `verify_keys`, in ms, limited by `capped_validity` when it was fetched.
    expired_ts: for a key in `old_verify_keys`, in ms.
    A key with neither counts only in room versions that do not enforce validity (before 5).
    """

    key: bytes
    valid_until_ts: int | None = None
    expired_ts: int | None = None

    def was_valid_at(self, origin_server_ts: int) -> bool:
        """Return True if this key may sign an event of that time (ms), where validity is enforced."""
        limit = self.valid_until_ts if self.expired_ts is None else self.expired_ts
        return limit is not None and origin_server_ts <= limit


#: (server name, key id) -> key. Server names are case-sensitive. The owner of the keys limits their number per server.
Keys = Mapping[tuple[str, str], VerifyKey]


@dataclass(frozen=True, slots=True)
class RequiredSignature:
    """A server whose signature is required.

    key_ids: the keys of its signatures on the event, without the policy server's; empty if it has not signed.
    valid_at_ts: the time in ms at which a key must be valid (a notary's `minimum_valid_until_ts`), or None for any.
    """

    server: ServerName
    key_ids: frozenset[str]
    valid_at_ts: int | None


class SignatureResult(Enum):
    """The result of verifying a server's signatures. UNKNOWN: there are signatures, but no usable key for any."""

    VALID = "valid"
    INVALID = "invalid"
    UNKNOWN = "unknown"


def capped_validity(valid_until_ts: int, now_ms: int) -> int:
    """Return until when (ms) a key fetched now is valid: as its server says, but at most seven days from now."""
    return min(valid_until_ts, now_ms + MAX_KEY_VALIDITY_MS)


def required_signatures(version: RoomVersion, event: Event) -> tuple[RequiredSignature, ...]:
    """Return the signatures that `check_received` requires, by server name, so that the keys can be fetched first.

    Ill-formed server names are left out: they have no keys, and the event will fail the check.
    """
    kept, _ = redact_if_hash_is_wrong(version, event)
    servers = set(required_signers(version, kept))
    authoriser = authorising_server(version, kept)
    if authoriser is not None:
        servers.add(authoriser)
    valid_at = event.origin_server_ts if version.key_validity_enforced else None
    return tuple(
        RequiredSignature(server, frozenset(_key_ids(event, server)), valid_at)
        for server in sorted(filter(is_server_name, servers))
    )


def redact_if_hash_is_wrong(version: RoomVersion, event: Event) -> tuple[Event, bool]:
    """Return the event and False, or its redacted form and True if the content hash is wrong (check 3).

    The required signers must be determined from this form. A third-party invite needs no signature of its sender's
    server, but redaction turns it into a plain invite, so an invite in another user's name would pass.
    """
    if has_right_content_hash(event.pdu):
        return event, False
    return parse_event(version, redact_pdu(version, event.pdu), event_id=event.event_id), True


def verify_server_signatures(
    version: RoomVersion, event: Event, server: str, keys: Keys, covered: bytes
) -> SignatureResult:
    """Verify the server's signatures on this event.

    Signatures by unknown keys, or by keys that were not valid when the event was made, do not count. All others must
    verify, and there must be at least one.
    covered: `redacted_bytes` of the event.
    The work is bounded by the event's size (600 signatures take 75 ms) and by the number of the server's keys.
    """
    key_ids = _key_ids(event, server)
    usable = [(key_id, key) for key_id in key_ids if (key := _usable_key(version, event, keys, server, key_id))]
    if not usable:
        return SignatureResult.UNKNOWN if key_ids else SignatureResult.INVALID
    try:
        for key_id, key in usable:
            check_signature(covered, signature_by(event.pdu, server, key_id), key.key)
    except SignatureError:
        return SignatureResult.INVALID
    return SignatureResult.VALID


def _usable_key(version: RoomVersion, event: Event, keys: Keys, server: str, key_id: str) -> VerifyKey | None:
    key = keys.get((server, key_id))
    if key is None or (version.key_validity_enforced and not key.was_valid_at(event.origin_server_ts)):
        return None
    return key


def _key_ids(event: Event, server: str) -> list[str]:
    # The policy server may be the sender's own server, but it does not publish its policy key.
    return [key_id for key_id in signatures_of(event.pdu, server) if key_id != POLICY_KEY_ID]
