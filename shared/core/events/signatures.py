"""Signatures of events, which cover the redacted form. Spec: server-server API, "Signing Events"."""

from collections.abc import Mapping
from typing import Any

from shared.core.events.event import Event
from shared.core.events.hashing import redacted_bytes
from shared.core.identifiers import ServerName, server_of
from shared.core.room_versions import RoomVersion
from shared.core.signing import SigningKey, check_signature
from shared.core.signing.json_signatures import add_signature, signature_by


def sign_pdu(version: RoomVersion, pdu: Mapping[str, Any], server_name: str, key: SigningKey) -> dict[str, Any]:
    """Return a copy of the PDU with this server's signature added. The hashes must be filled in."""
    return add_signature(pdu, server_name, key.key_id, key.sign(redacted_bytes(version, pdu)))


def verify_pdu(version: RoomVersion, pdu: Mapping[str, Any], server_name: str, key_id: str, verify_key: bytes) -> None:
    """Raise SignatureError unless the server signed this event by this key. Redacted copies verify too."""
    check_signature(redacted_bytes(version, pdu), signature_by(pdu, server_name, key_id), verify_key)


def required_signers(version: RoomVersion, event: Event) -> frozenset[ServerName]:
    """Return the servers that must have validly signed, else the event is dropped.

    These are the sender's server, and the server in the event id (versions 1 and 2). An invite made from a third-party
    invite needs no signature of the sender's server, since another server may have sent it.
    Spec: server-server API, "Validating hashes and signatures on received events".
    """
    signers: set[ServerName] = set()
    membership = event.content.get("membership") if event.type == "m.room.member" else None
    if not (membership == "invite" and "third_party_invite" in event.content):
        signers.add(server_of(event.sender))
    if version.event_id_server_signs:
        signers.add(server_of(event.event_id))
    return frozenset(signers)


def authorising_server(version: RoomVersion, event: Event) -> ServerName | None:
    """Return the server that must have signed a restricted join besides the sender's, else the event is rejected.

    None if the event names no authorising user. Another rule decides whether it must.
    Spec: rooms/v8, rule 4.2.1; rooms/v12, rule 5.2.1.
    """
    if not version.restricted or event.type != "m.room.member":
        return None
    authoriser = event.content.get("join_authorised_via_users_server")
    return server_of(authoriser) if isinstance(authoriser, str) and ":" in authoriser else None
