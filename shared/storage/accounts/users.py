"""Accounts of this server."""

from dataclasses import dataclass

import orjson

from shared.core.identifiers import UserId
from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.pool import Database
from shared.storage.engine.statements import parameters, statement

# All use the primary key of users.
_GET_ACCOUNT = "SELECT user_id, password_hash, kind, is_admin, deactivated FROM users WHERE user_id = $1"
_IS_TAKEN = "SELECT EXISTS (SELECT 1 FROM users WHERE user_id = $1)"
_REHASH = "UPDATE users SET password_hash = $3 WHERE user_id = $1 AND password_hash = $2"
# $1 the last user id of the page before, $2 the most rows. last_seen_ms is the latest of all devices.
_LIST_ACCOUNTS = """
    SELECT user_id, kind, is_admin, deactivated, created_ms,
           (SELECT max(last_seen_ms) FROM devices d WHERE d.user_id = u.user_id) AS last_seen_ms
    FROM users u WHERE user_id > $1 ORDER BY user_id LIMIT $2
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
    """The outcome of creating an account.

    created: False if the user id is taken or the registration token is refused.
    token_accepted: False if the registration token is refused.
    """

    created: bool
    token_accepted: bool


@parameters
class SetAdmin:
    user_id: UserId
    is_admin: bool
    now_ms: int


#: The row of the stream `sessions` lets every process read the account again, since authenticated sessions remember it.
SET_ADMIN = fenced_statement(
    "set_admin",
    SetAdmin,
    {
        "changed": """
            UPDATE users SET is_admin = :is_admin FROM fence
            WHERE user_id = :user_id AND NOT deactivated AND kind <> 'guest' RETURNING 1
        """,
        "change": """
            INSERT INTO session_changes (writer, position, user_id, device_id, changed_ms)
            SELECT :lease, nextval('stream_sessions'), :user_id, NULL, :now_ms FROM fence
            WHERE EXISTS (SELECT 1 FROM changed) RETURNING position
        """,
    },
    "(SELECT position FROM change) AS position",
)


@parameters
class _CreateAccount:
    """An account to create and its first session.

    displayname: JSON.
    registered: what the interactive session remembers, as JSON.
    device_id: None: create no session.
    device_name: its display name.
    """

    user_id: UserId
    password_hash: str | None
    kind: str
    is_admin: bool
    created_ms: int
    registration_token: str | None
    displayname: bytes | None
    interactive_session: str | None
    registered: str
    device_id: str | None
    device_name: str | None
    access_hash: bytes | None
    expires_ms: int | None
    refresh_hash: bytes | None


#: One statement: two workers cannot create one user twice, and no user is created without the session that was asked
#: for. It locks and counts the registration token too, and the interactive session remembers the account, for a client
#: that misses the answer.
_CREATE_ACCOUNT = statement(
    _CreateAccount,
    """
    WITH allowed AS (
        SELECT token FROM registration_tokens
        WHERE token = :registration_token AND (uses_allowed IS NULL OR completed + pending < uses_allowed)
          AND (expires_ms IS NULL OR expires_ms > :created_ms) FOR UPDATE
    ), account AS (
        INSERT INTO users (user_id, password_hash, kind, is_admin, created_ms)
        SELECT :user_id, :password_hash, :kind, :is_admin, :created_ms
        WHERE :registration_token::text IS NULL OR EXISTS (SELECT 1 FROM allowed)
        ON CONFLICT (user_id) DO NOTHING RETURNING user_id
    ), counted AS (
        UPDATE registration_tokens SET completed = completed + 1 FROM account, allowed
        WHERE registration_tokens.token = allowed.token
    ), device AS (
        INSERT INTO devices (user_id, device_id, display_name, created_ms)
        SELECT user_id, :device_id, :device_name, :created_ms FROM account WHERE :device_id::text IS NOT NULL
    ), access AS (
        INSERT INTO access_tokens (token_hash, user_id, device_id, expires_ms, refresh_hash, created_ms)
        SELECT :access_hash, user_id, :device_id, :expires_ms, :refresh_hash, :created_ms
        FROM account WHERE :device_id::text IS NOT NULL
    ), refresh AS (
        INSERT INTO refresh_tokens (token_hash, user_id, device_id, created_ms)
        SELECT :refresh_hash, user_id, :device_id, :created_ms
        FROM account WHERE :device_id::text IS NOT NULL AND :refresh_hash::bytea IS NOT NULL
    ), profile AS (
        INSERT INTO profiles (user_id, field, value)
        SELECT user_id, 'displayname', :displayname FROM account WHERE :displayname::bytea IS NOT NULL
    ), remembered AS (
        UPDATE uia_sessions SET completed = completed || :registered::jsonb, user_id = account.user_id FROM account
        WHERE session_id = :interactive_session
    )
    SELECT EXISTS (SELECT 1 FROM account) AS created,
           :registration_token::text IS NULL OR EXISTS (SELECT 1 FROM allowed) AS token_accepted
    """,
)


async def get_account(database: Database, user_id: UserId) -> Account | None:
    row = await database.fetchrow(_GET_ACCOUNT, user_id)
    return Account(**row) if row is not None else None


async def list_accounts(database: Database, after: str, limit: int) -> list[ListedAccount]:
    """Return a page of accounts by user id. after: the last user id of the page before; "" for the first page."""
    return [ListedAccount(**row) for row in await database.fetch(_LIST_ACCOUNTS, after, limit)]


async def is_taken(database: Database, user_id: UserId) -> bool:
    """Return True if there is or was an account with this user id. User ids are never given out again."""
    taken: bool = await database.fetchval(_IS_TAKEN, user_id)
    return taken


async def create_account(database: Database, account: NewAccount, session: NewSession | None) -> Creation:
    """Create a user and, if one is given, its first session, or nothing at all."""
    record = _CreateAccount(
        user_id=account.user_id,
        password_hash=account.password_hash,
        kind=account.kind,
        is_admin=account.is_admin,
        created_ms=account.created_ms,
        registration_token=account.registration_token,
        displayname=None if account.displayname is None else orjson.dumps(account.displayname),
        interactive_session=account.interactive_session,
        registered=orjson.dumps({"registered": account.result}).decode(),
        device_id=session.device_id if session else None,
        device_name=session.display_name if session else None,
        access_hash=session.access_hash if session else None,
        expires_ms=session.expires_ms if session else None,
        refresh_hash=session.refresh_hash if session else None,
    )
    row = await database.fetchrow(*_CREATE_ACCOUNT.bind(record))
    assert row is not None
    return Creation(row["created"], row["token_accepted"])


async def replace_password_hash(database: Database, user_id: UserId, old: str, new: str) -> bool:
    """Store another hash of the same password. Return False if the stored hash is not the old one any more."""
    return (await database.execute(_REHASH, user_id, old, new)).endswith(" 1")
