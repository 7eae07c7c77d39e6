"""Registration tokens, and the nonces of registration by shared secret."""

from dataclasses import dataclass

from shared.storage.engine.pool import Database

# Uses the primary key of registration_tokens.
_IS_USABLE = """
    SELECT EXISTS (SELECT 1 FROM registration_tokens
                   WHERE token = $1 AND (uses_allowed IS NULL OR completed + pending < uses_allowed)
                     AND (expires_ms IS NULL OR expires_ms > $2))
"""
_CREATE = """
    INSERT INTO registration_tokens (token, uses_allowed, expires_ms) VALUES ($1, $2, $3)
    ON CONFLICT (token) DO NOTHING
"""
_LIST = "SELECT token, uses_allowed, pending, completed, expires_ms FROM registration_tokens ORDER BY token"
# Use the primary key of registration_nonces.
_CREATE_NONCE = "INSERT INTO registration_nonces (nonce, created_ms) VALUES ($1, $2)"
_TAKE_NONCE = "DELETE FROM registration_nonces WHERE nonce = $1 RETURNING created_ms"


@dataclass(frozen=True, slots=True)
class RegistrationToken:
    """A token. uses_allowed: None: without limit. expires_ms: None: never."""

    token: str
    uses_allowed: int | None
    pending: int
    completed: int
    expires_ms: int | None


async def is_usable_token(database: Database, token: str, now_ms: int) -> bool:
    usable: bool = await database.fetchval(_IS_USABLE, token, now_ms)
    return usable


async def create_registration_token(
    database: Database, token: str, uses_allowed: int | None, expires_ms: int | None
) -> bool:
    """Create a token. Return False if it exists already."""
    return (await database.execute(_CREATE, token, uses_allowed, expires_ms)).endswith(" 1")


async def list_registration_tokens(database: Database) -> list[RegistrationToken]:
    return [RegistrationToken(**row) for row in await database.fetch(_LIST)]


async def create_nonce(database: Database, nonce: str, now_ms: int) -> None:
    await database.execute(_CREATE_NONCE, nonce, now_ms)


async def take_nonce(database: Database, nonce: str, newer_than_ms: int) -> bool:
    """Use up a nonce. Return False if it is unknown, was used, or is too old."""
    created_ms: int | None = await database.fetchval(_TAKE_NONCE, nonce)
    return created_ms is not None and created_ms > newer_than_ms
