"""Passwords that wait in the database for the rest of a registration, encrypted for this fleet.

A registration needs its password when interactive authentication is complete, and a client may send it with the first
request only. A hash would cost a stranger nothing and this server 50 ms of a core.
"""

import base64
import binascii
import hmac

import nacl.exceptions
import nacl.secret

_PURPOSE = b"password of an unfinished registration"


class SealedPasswords:
    """Encrypts passwords, and decrypts those of the same fleet. secret: the fleet's internal secret."""

    def __init__(self, secret: str) -> None:
        self._box = nacl.secret.SecretBox(hmac.digest(secret.encode(), _PURPOSE, "sha256"))

    def seal(self, password: str) -> str:
        return base64.b64encode(self._box.encrypt(password.encode("utf-8", "surrogatepass"))).decode()

    def open(self, sealed: str) -> str | None:
        """Return the password, or None for a text that this fleet did not seal."""
        try:
            return self._box.decrypt(base64.b64decode(sealed, validate=True)).decode("utf-8", "surrogatepass")
        except (nacl.exceptions.CryptoError, binascii.Error, ValueError):
            return None
