"""Accounts of this server."""

from dataclasses import dataclass

import orjson

from shared.core.identifiers import UserId
from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.pool import Database

# All use the primary key of users.
_GET_ACCOUNT = "SELECT user_id, password_hash, kind, is_admin, deactivated FROM users WHERE user_id = $1"
_IS_TAKEN = "SELECT EXISTS (SELECT 1 FROM users WHERE user_id = $1)"
_REHASH = "UPDATE users SET password_hash = $3 WHERE user_id = $1 AND password_hash = $2"
_SET_HASH = "UPDATE users SET password_hash = $2 WHERE user_id = $1 AND NOT deactivated"
# $1 the last user id of the page before, $2 the greatest number of rows. last_seen_ms is that of any device.
_LIST_ACCOUNTS = """
    SELECT user_id, kind, is_admin, deactivated, created_ms,
           (SELECT max(last_seen_ms) FROM devices d WHERE d.user_id = u.user_id) AS last_seen_ms
    FROM users u WHERE user_id > $1 ORDER BY user_id LIMIT $2
"""

#: $2 user, $3 the new password hash. Guests and deactivated accounts have no password.
SET_PASSWORD = fenced_statement(
    "set_password",
    {
        "changed": """
            UPDATE users SET password_hash = $3 FROM fence
            WHERE user_id = $2 AND NOT deactivated AND kind <> 'guest' RETURNING 1
        """,
    },
    "(SELECT count(*) FROM changed) AS changed",
)

#: $2 user, $3 true for an administrator, $4 now. The row of the stream `sessions` lets every process read the account
#: again, since authenticated sessions remember it.
SET_ADMIN = fenced_statement(
    "set_admin",
    {
        "changed": """
            UPDATE users SET is_admin = $3 FROM fence
            WHERE user_id = $2 AND NOT deactivated AND kind <> 'guest' RETURNING 1
        """,
        "change": """
            INSERT INTO session_changes (writer, position, user_id, device_id, changed_ms)
            SELECT $1, nextval('stream_sessions'), $2, NULL, $4 FROM fence WHERE EXISTS (SELECT 1 FROM changed)
            RETURNING position
        """,
    },
    "(SELECT position FROM change) AS position",
)

#: $2 user, $3 the password hash, $4 the display name for an account without one, as JSON (NULL: none), $5 now,
#: $6 registration token (NULL: none needed). Rows of the stream `sessions`: see SET_ADMIN.
UPGRADE_GUEST = fenced_statement(
    "upgrade_guest",
    {
        "allowed": """
            SELECT token FROM fence, registration_tokens
            WHERE token = $6 AND (uses_allowed IS NULL OR completed + pending < uses_allowed)
              AND (expires_ms IS NULL OR expires_ms > $5) FOR UPDATE OF registration_tokens
        """,
        "account": """
            UPDATE users SET kind = 'user', password_hash = $3 FROM fence
            WHERE user_id = $2 AND kind = 'guest' AND NOT deactivated
              AND ($6::text IS NULL OR EXISTS (SELECT 1 FROM allowed))
            RETURNING user_id
        """,
        "counted": """
            UPDATE registration_tokens SET completed = completed + 1 FROM fence, account, allowed
            WHERE registration_tokens.token = allowed.token
        """,
        "profile": """
            INSERT INTO profiles (user_id, field, value)
            SELECT $2, 'displayname', $4 FROM fence, account WHERE $4::bytea IS NOT NULL
            ON CONFLICT (user_id, field) DO NOTHING
        """,
        "change": """
            INSERT INTO session_changes (writer, position, user_id, device_id, changed_ms)
            SELECT $1, nextval('stream_sessions'), $2, NULL, $5 FROM fence, account RETURNING position
        """,
    },
    """(SELECT position FROM change) AS position,
       $6::text IS NULL OR EXISTS (SELECT 1 FROM allowed) AS token_accepted""",
)

# One statement: two workers cannot make one user twice, and no user is made without the session that was asked for.
# The registration token is locked and counted with it, and the interactive session remembers the account, for a client
# that misses the answer. $1 user, $2 password hash, $3 kind, $4 admin, $5 now, $6 registration token (NULL: none
# needed), $7 device (NULL: no session), $8 the device's name, $9 access hash, $10 expires_ms, $11 refresh hash,
# $12 display name, as JSON (NULL: none), $13 interactive session, $14 what it remembers.
_CREATE_ACCOUNT = """
    WITH allowed AS (
        SELECT token FROM registration_tokens
        WHERE token = $6 AND (uses_allowed IS NULL OR completed + pending < uses_allowed)
          AND (expires_ms IS NULL OR expires_ms > $5) FOR UPDATE
    ), account AS (
        INSERT INTO users (user_id, password_hash, kind, is_admin, created_ms)
        SELECT $1, $2, $3, $4, $5 WHERE $6::text IS NULL OR EXISTS (SELECT 1 FROM allowed)
        ON CONFLICT (user_id) DO NOTHING RETURNING user_id
    ), counted AS (
        UPDATE registration_tokens SET completed = completed + 1 FROM account, allowed
        WHERE registration_tokens.token = allowed.token
    ), device AS (
        INSERT INTO devices (user_id, device_id, display_name, created_ms)
        SELECT user_id, $7, $8, $5 FROM account WHERE $7::text IS NOT NULL
    ), access AS (
        INSERT INTO access_tokens (token_hash, user_id, device_id, expires_ms, refresh_hash, created_ms)
        SELECT $9, user_id, $7, $10, $11, $5 FROM account WHERE $7::text IS NOT NULL
    ), refresh AS (
        INSERT INTO refresh_tokens (token_hash, user_id, device_id, created_ms)
        SELECT $11, user_id, $7, $5 FROM account WHERE $7::text IS NOT NULL AND $11::bytea IS NOT NULL
    ), profile AS (
        INSERT INTO profiles (user_id, field, value)
        SELECT user_id, 'displayname', $12 FROM account WHERE $12::bytea IS NOT NULL
    ), remembered AS (
        UPDATE uia_sessions SET completed = completed || jsonb_build_object('registered', $14::text) FROM account
        WHERE session_id = $13
    )
    SELECT EXISTS (SELECT 1 FROM account) AS created,
           $6::text IS NULL OR EXISTS (SELECT 1 FROM allowed) AS token_accepted
"""


@dataclass(frozen=True, slots=True)
class Account:
    user_id: UserId
    password_hash: str | None  # None: no log-in by password
    kind: str
    is_admin: bool
    deactivated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedAccount:
    """An account in the list for operators. last_seen_ms: the latest request of any of its devices, if known."""

    user_id: UserId
    kind: str
    is_admin: bool
    deactivated: bool
    created_ms: int
    last_seen_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAccount:
    """An account to create. The same statement checks and counts its registration token."""

    user_id: UserId
    password_hash: str | None
    kind: str
    is_admin: bool
    created_ms: int
    registration_token: str | None = None  # None: registration needs no token
    displayname: str | None = None
    interactive_session: str | None = None  # it remembers `result`, under "registered"
    result: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """A session to create, with the hashes of its tokens."""

    device_id: str
    display_name: str | None
    access_hash: bytes
    expires_ms: int | None
    refresh_hash: bytes | None  # None: no refresh token


@dataclass(frozen=True, slots=True)
class Creation:
    """created False: the user id is taken, or (token_accepted False) the registration token is worth nothing."""

    created: bool
    token_accepted: bool


async def get_account(database: Database, user_id: UserId) -> Account | None:
    row = await database.fetchrow(_GET_ACCOUNT, user_id)
    return Account(**row) if row is not None else None


async def list_accounts(database: Database, after: str, limit: int) -> list[ListedAccount]:
    """Return a page of accounts by user id. after: the last user id of the page before; "" for the first page."""
    return [ListedAccount(**row) for row in await database.fetch(_LIST_ACCOUNTS, after, limit)]


async def is_taken(database: Database, user_id: UserId) -> bool:
    """Tell whether the user id was ever given out; deactivated ones are not given out again."""
    taken: bool = await database.fetchval(_IS_TAKEN, user_id)
    return taken


async def create_account(database: Database, account: NewAccount, session: NewSession | None) -> Creation:
    """Make a user and, where one is given, its first session, or nothing at all."""
    values = (
        (
            session.device_id,
            session.display_name,
            session.access_hash,
            session.expires_ms,
            session.refresh_hash,
        )
        if session is not None
        else (None,) * 5
    )
    row = await database.fetchrow(
        _CREATE_ACCOUNT,
        account.user_id,
        account.password_hash,
        account.kind,
        account.is_admin,
        account.created_ms,
        account.registration_token,
        *values,
        None if account.displayname is None else orjson.dumps(account.displayname),
        account.interactive_session,
        account.result,
    )
    assert row is not None
    return Creation(row["created"], row["token_accepted"])


async def replace_password_hash(database: Database, user_id: UserId, old: str, new: str) -> None:
    """Store the same password hashed anew, unless it was changed in between."""
    await database.execute(_REHASH, user_id, old, new)


async def set_password_hash(database: Database, user_id: UserId, new: str) -> None:
    await database.execute(_SET_HASH, user_id, new)
