"""Whose signatures an event needs, and whether they hold. Spec: server-server API, "Validating hashes and
signatures on received events"; rooms/v5, "Signing key validity period".
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

#: Of the key in `m.room.policy`, always. Spec: server-server API, "Validating Policy Server signatures".
POLICY_KEY_ID = "ed25519:policy_server"

#: Nobody's key counts as valid for longer than this from now on. Spec: rooms/v5, "Signing key validity period".
MAX_KEY_VALIDITY_MS = 7 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A server's public key as we know it. Spec: server-server API, "Publishing Keys".

    key: 32 bytes; what is no key verifies nothing.
    valid_until_ts: of a key in `verify_keys`, in ms, cut by `capped_validity` when it was fetched.
    expired_ts: of a key in `old_verify_keys`, in ms.
    A key with neither counts only in room versions that do not enforce validity (before 5).
    """

    key: bytes
    valid_until_ts: int | None = None
    expired_ts: int | None = None

    def was_valid_at(self, origin_server_ts: int) -> bool:
        """Return whether an event of that time (ms) may be signed by this key where validity is enforced."""
        limit = self.valid_until_ts if self.expired_ts is None else self.expired_ts
        return limit is not None and origin_server_ts <= limit


#: (server name, key id) -> key. Server names are case-sensitive. Whoever keeps the keys bounds how many one server has.
Keys = Mapping[tuple[str, str], VerifyKey]


@dataclass(frozen=True, slots=True)
class RequiredSignature:
    """One server whose signature is asked for.

    key_ids: of its signatures on the event, without the policy server's; empty: it has not signed.
    valid_at_ts: the time in ms at which a key must be valid (a notary's `minimum_valid_until_ts`); None: no matter.
    """

    server: ServerName
    key_ids: frozenset[str]
    valid_at_ts: int | None


class Proof(Enum):
    """What a server's signatures show. UNKNOWN: there are some, and no usable key for any of them."""

    VALID = "valid"
    INVALID = "invalid"
    UNKNOWN = "unknown"


def capped_validity(valid_until_ts: int, now_ms: int) -> int:
    """Return until when (ms) a key fetched now is valid: what its server says, and at most seven days ahead."""
    return min(valid_until_ts, now_ms + MAX_KEY_VALIDITY_MS)


def required_signatures(version: RoomVersion, event: Event) -> tuple[RequiredSignature, ...]:
    """Return whose signatures `check_received` will ask for, by server name, so that the keys can be fetched first.

    What is no server name is left out: nobody has keys for it, and the event will not pass.
    """
    kept, _ = form_to_keep(version, event)
    servers = set(required_signers(version, kept))
    authoriser = authorising_server(version, kept)
    if authoriser is not None:
        servers.add(authoriser)
    valid_at = event.origin_server_ts if version.key_validity_enforced else None
    return tuple(
        RequiredSignature(server, frozenset(_key_ids(event, server)), valid_at)
        for server in sorted(filter(is_server_name, servers))
    )


def form_to_keep(version: RoomVersion, event: Event) -> tuple[Event, bool]:
    """Return the event, or its redacted form when the content hash is wrong (check 3), and whether that is so.

    Whose signatures are needed must be asked of this form. Else an invite in anybody's name would pass: a
    third-party invite needs no signature of its sender's server, and with a wrong hash it is redacted to a plain one.
    """
    if has_right_content_hash(event.pdu):
        return event, False
    return parse_event(version, redact_pdu(version, event.pdu), event_id=event.event_id), True


def proof_by(version: RoomVersion, event: Event, server: str, keys: Keys, covered: bytes) -> Proof:
    """Return what the server's signatures on this event show.

    Signatures by keys that we do not know, or that were not valid when the event was made, do not count. All others
    must verify, and there must be one. covered: `redacted_bytes` of the event.
    The work is bounded by the event's size (600 signatures take 75 ms) and by how many of the server's keys are given.
    """
    key_ids = _key_ids(event, server)
    usable = [(key_id, key) for key_id in key_ids if (key := _usable_key(version, event, keys, server, key_id))]
    if not usable:
        return Proof.UNKNOWN if key_ids else Proof.INVALID
    try:
        for key_id, key in usable:
            check_signature(covered, signature_by(event.pdu, server, key_id), key.key)
    except SignatureError:
        return Proof.INVALID
    return Proof.VALID


def _usable_key(version: RoomVersion, event: Event, keys: Keys, server: str, key_id: str) -> VerifyKey | None:
    key = keys.get((server, key_id))
    if key is None or (version.key_validity_enforced and not key.was_valid_at(event.origin_server_ts)):
        return None
    return key


def _key_ids(event: Event, server: str) -> list[str]:
    # The policy server may be the sender's own server; its policy key is none of those that a server publishes.
    return [key_id for key_id in signatures_of(event.pdu, server) if key_id != POLICY_KEY_ID]
