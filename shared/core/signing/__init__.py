"""ed25519 signatures over JSON. Spec: appendices, "Signing JSON".

Nothing here reads randomness or a clock.
"""

from shared.core.signing.json_signatures import sign_json, signatures_of, verify_json
from shared.core.signing.keys import (
    SigningKey,
    check_signature,
    format_signing_key,
    generate_signing_key,
    parse_signing_key,
    parse_verify_key,
)

__all__ = [
    "SigningKey",
    "check_signature",
    "format_signing_key",
    "generate_signing_key",
    "parse_signing_key",
    "parse_verify_key",
    "sign_json",
    "signatures_of",
    "verify_json",
]
