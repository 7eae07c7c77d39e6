"""The rule for invites that redeem a third-party invite.

Spec: rooms/v1, rule 5.3.1; client-server API, "Third-party invites".
"""

from collections.abc import Iterator, Mapping
from typing import Any

from shared.core.canonical_json import decode_unpadded
from shared.core.errors import EventFormatError, SignatureError
from shared.core.event_auth.rule_numbers import violation
from shared.core.events.event import Event
from shared.core.room_versions import RoomVersion
from shared.core.signing import check_signature, parse_verify_key
from shared.core.signing.json_signatures import signed_bytes

State = Mapping[tuple[str, str], Event]

#: The most pairs of signature and key to try. An event of 64 KiB could hold enough for seconds of work.
_MAX_TRIES = 64


def check_third_party_invite(version: RoomVersion, event: Event, state: State, *, target_is_banned: bool) -> None:
    """Raise AuthRuleViolation unless a signature proves that the invite is for this user."""

    def broken(number: str, message: str) -> Exception:
        return violation(version, "member/invite", f"1.{number}", message)

    if target_is_banned:
        raise broken("1", "the invited user is banned")
    invite = event.content["third_party_invite"]
    signed = invite.get("signed") if isinstance(invite, Mapping) else None
    if not isinstance(signed, Mapping):
        raise broken("2", "third_party_invite.signed is missing")
    mxid, token = signed.get("mxid"), signed.get("token")
    if not isinstance(mxid, str) or not isinstance(token, str):
        raise broken("3", "mxid or token is missing")
    if mxid != event.state_key:
        raise broken("4", "mxid must be the invited user")
    original = state.get(("m.room.third_party_invite", token))
    if original is None:
        raise broken("5", "there is no such third-party invite in the room")
    if original.sender != event.sender:
        raise broken("6", "the sender is not the one of the third-party invite")
    if not _signed_by_any(signed, list(_public_keys(original.content))):
        raise broken("8", "no signature is by a key of the third-party invite")


def _signed_by_any(signed: Mapping[str, Any], keys: list[bytes]) -> bool:
    try:
        message = signed_bytes(signed)
    except EventFormatError:
        return False
    tries = 0
    for signature in _signatures(signed):
        for key in keys:
            tries += 1
            if tries > _MAX_TRIES:
                return False
            try:
                check_signature(message, signature, key)
            except SignatureError:
                continue
            return True
    return False


def _signatures(signed: Mapping[str, Any]) -> Iterator[bytes]:
    signatures = signed.get("signatures")
    for by_key in signatures.values() if isinstance(signatures, Mapping) else ():
        for key_id, text in by_key.items() if isinstance(by_key, Mapping) else ():
            if not key_id.startswith("ed25519:") or not isinstance(text, str):
                continue
            try:
                yield decode_unpadded(text)
            except ValueError:
                continue


def _public_keys(content: Mapping[str, Any]) -> Iterator[bytes]:
    listed = content.get("public_keys")
    entries = listed if isinstance(listed, list) else []
    for entry in (content, *entries):
        text = entry.get("public_key") if isinstance(entry, Mapping) else None
        if isinstance(text, str):
            try:
                yield parse_verify_key(text)
            except SignatureError:
                continue
