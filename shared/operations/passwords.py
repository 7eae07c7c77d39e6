"""Password hashing by argon2id, in a few threads. bcrypt hashes of imported accounts can be verified.

Hashing one password takes some 50 ms of a core and 19 MB (OWASP's second recommendation: t=2, m=19 MiB, p=1).
"""

import asyncio
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import argon2
import bcrypt

from shared.core.errors import MatrixError
from shared.runtime.fair_shares import FairShares

_R = TypeVar("_R")

MAX_PASSWORD_CHARS = 512  # hashing a megabyte would help attackers
_BCRYPT_BYTES = 72  # bcrypt ignores the rest; newer libraries refuse longer passwords
_BCRYPT_PREFIXES = ("$2a$", "$2b$", "$2y$")


#: Callers without a user or an address, such as operators.
OPERATORS = "operators"
_WAITING_PER_CALLER = 20
_PATIENCE_S = 15.0


class PasswordHasher:
    """Hashes and verifies passwords.

    threads: the number of passwords hashed at a time. Others wait, and the users and addresses that ask take turns.
    `asked_by` is the user id of a caller, or their address.
    """

    def __init__(self, threads: int, minimum_length: int) -> None:
        self._argon2 = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        # A pool of its own, since its limit must not apply to other uses of threads.
        self._threads = ThreadPoolExecutor(threads, "password")
        self.places = FairShares(
            "passwords to check",
            threads,
            per_user=max(1, threads - 1),
            waiting_per_user=_WAITING_PER_CALLER,
            patience_s=_PATIENCE_S,
        )
        self._minimum_length = minimum_length
        self._dummy: str | None = None

    def check_strength(self, password: str) -> None:
        """Raise MatrixError M_WEAK_PASSWORD for a new password that is too short or too long."""
        if len(password) < self._minimum_length:
            raise _weak(f"The password must have at least {self._minimum_length} characters")
        if len(password) > MAX_PASSWORD_CHARS:
            raise _weak(f"The password must have at most {MAX_PASSWORD_CHARS} characters")

    async def hash(self, password: str, asked_by: str = OPERATORS) -> str:
        """Return the hash that is stored for the password. Raises M_LIMIT_EXCEEDED."""
        return await self._run(asked_by, self._argon2.hash, _encoded(password))

    async def verify(self, stored: str | None, password: str, asked_by: str) -> bool:
        """Return True if the password is right. If stored is None (no such account), take as long and return False.

        Raises M_LIMIT_EXCEEDED.
        """
        if stored is None:
            if self._dummy is None:
                self._dummy = await self.hash("no such account")
            await self._run(asked_by, self._matches, self._dummy, password)
            return False
        return await self._run(asked_by, self._matches, stored, password)

    def needs_rehash(self, stored: str) -> bool:
        """Return True if the stored hash is of another kind or strength than new hashes."""
        return stored.startswith(_BCRYPT_PREFIXES) or self._argon2.check_needs_rehash(stored)

    def _matches(self, stored: str, password: str) -> bool:
        if len(password) > MAX_PASSWORD_CHARS:
            password = password[:MAX_PASSWORD_CHARS] + "\x00"  # matches no hash, and takes no longer
        try:
            if stored.startswith(_BCRYPT_PREFIXES):
                # The servers that made these hashes normalised the text first.
                normal = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
                return bcrypt.checkpw(normal[:_BCRYPT_BYTES], stored.encode())
            return self._argon2.verify(stored, _encoded(password))
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError, ValueError):
            return False

    async def _run(self, asked_by: str, work: Callable[..., _R], *args: Any) -> _R:
        async with self.places.place(asked_by):
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)


def _encoded(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")


def _weak(message: str) -> MatrixError:
    return MatrixError("M_WEAK_PASSWORD", message, 400)
