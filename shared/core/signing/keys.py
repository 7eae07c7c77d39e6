"""Signing keys and verify keys. Spec: appendices, "Cryptographic key representation"."""

import re
from dataclasses import dataclass, field

import nacl.exceptions
import nacl.signing

from shared.core.canonical_json import decode_unpadded, encode_unpadded
from shared.core.errors import SignatureError

ALGORITHM = "ed25519"
_KEY_BYTES = 32
_VERSION_RE = re.compile(r"[0-9A-Za-z_]+")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key of this server.

    version: the part of the key id after "ed25519:", such as "a_abc".
    seed: never part of a repr.
    """

    version: str
    seed: bytes = field(repr=False)
    _key: nacl.signing.SigningKey = field(repr=False, compare=False)

    @property
    def key_id(self) -> str:
        """The name of the key in signatures, such as "ed25519:a_abc"."""
        return f"{ALGORITHM}:{self.version}"

    @property
    def verify_key(self) -> bytes:
        """The public key: 32 bytes."""
        return bytes(self._key.verify_key)

    @property
    def verify_key_base64(self) -> str:
        """The public key as published in `/_matrix/key/v2/server`: unpadded base64."""
        return encode_unpadded(self.verify_key)

    def sign(self, message: bytes) -> bytes:
        """Return the signature: 64 bytes, the same for the same message."""
        return self._key.sign(message).signature


def generate_signing_key(seed: bytes, version: str) -> SigningKey:
    """Return the key made from 32 random bytes.

    Raises ValueError for a seed of another length, or a version with other characters than letters, digits and "_".
    """
    if len(seed) != _KEY_BYTES:
        raise ValueError(f"a signing key's seed has {_KEY_BYTES} bytes")
    if not _VERSION_RE.fullmatch(version):
        raise ValueError("a signing key's version consists of letters, digits and _")
    return SigningKey(version, seed, nacl.signing.SigningKey(seed))


def parse_signing_key(line: str) -> SigningKey:
    """Return the key written as "ed25519 a_abc <seed in base64>" (a line of a signing key file).

    Raises ValueError with a message that does not repeat the seed.
    """
    parts = line.split()
    if len(parts) != 3:
        raise ValueError("a signing key has three parts: algorithm, version, seed in base64")
    algorithm, version, seed = parts
    if algorithm != ALGORITHM:
        raise ValueError(f"the algorithm of a signing key must be {ALGORITHM}")
    try:
        raw = decode_unpadded(seed)
    except ValueError:
        raise ValueError("the seed of a signing key must be base64") from None
    return generate_signing_key(raw, version)


def format_signing_key(key: SigningKey) -> str:
    """Return the line that `parse_signing_key` reads, without a newline. It is a secret."""
    return f"{ALGORITHM} {key.version} {encode_unpadded(key.seed)}"


def parse_verify_key(text: str) -> bytes:
    """Return the 32 bytes of a public key in base64. Raises SignatureError."""
    try:
        raw = decode_unpadded(text)
    except ValueError:
        raise SignatureError("a verify key is not base64") from None
    if len(raw) != _KEY_BYTES:
        raise SignatureError(f"a verify key must have {_KEY_BYTES} bytes")
    return raw


def check_signature(message: bytes, signature: bytes, verify_key: bytes) -> None:
    """Raise SignatureError unless this is the key's signature of the message.

    Keys of small order never verify.
    """
    try:
        nacl.signing.VerifyKey(verify_key).verify(message, signature)
    except (nacl.exceptions.CryptoError, ValueError, TypeError):
        raise SignatureError("the signature does not verify") from None
