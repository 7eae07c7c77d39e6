"""The keys of other servers, and the servers whose keys could not be had."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shared.core.event_checks.signatures import VerifyKey
from shared.core.federation.published_keys import PublishedKeys
from shared.core.identifiers import ServerName
from shared.storage.engine.pool import Database

# Uses the primary key of server_keys.
_KEYS = """
    SELECT k.server, k.key_id, k.verify_key, k.valid_until_ms, k.expired_ms
    FROM unnest($1::text[], $2::text[]) AS wanted (server, key_id)
    JOIN server_keys AS k ON k.server = wanted.server AND k.key_id = wanted.key_id
"""
# Uses the primary key of server_keys: a server has at most some hundred keys.
_SIGNED = """
    SELECT server, signed, array_agg(key_id) AS key_ids, coalesce(max(valid_until_ms), 0) AS valid_until_ms,
           max(fetched_ms) AS fetched_ms
    FROM server_keys WHERE server = ANY($1::text[])
    GROUP BY server, signed ORDER BY server, fetched_ms DESC LIMIT 1000
"""
# Uses the primary key of server_keys. Rows are in order, so that two processes cannot deadlock. A key that is known
# only changes its validity, and only forward; its bytes never change, or a thief of a name could replace old keys.
_STORE = """
    INSERT INTO server_keys AS k (server, key_id, verify_key, valid_until_ms, expired_ms, signed, fetched_ms)
    SELECT $1, key_id, verify_key, valid_until_ms, expired_ms, $6, $7
    FROM unnest($2::text[], $3::bytea[], $4::bigint[], $5::bigint[])
        AS given (key_id, verify_key, valid_until_ms, expired_ms)
    ORDER BY key_id
    ON CONFLICT (server, key_id) DO UPDATE SET
        valid_until_ms = greatest(k.valid_until_ms, excluded.valid_until_ms),
        expired_ms = least(k.expired_ms, excluded.expired_ms),
        signed = excluded.signed,
        fetched_ms = excluded.fetched_ms
    WHERE k.verify_key = excluded.verify_key AND k.fetched_ms <= excluded.fetched_ms
"""
_FORGET_FAILURES = "DELETE FROM server_key_failures WHERE server = $1"
_FAILURES = "SELECT server, failures, failed_ms, retry_at_ms FROM server_key_failures WHERE server = ANY($1::text[])"
_FAILED = """
    INSERT INTO server_key_failures AS f (server, failures, failed_ms, retry_at_ms) VALUES ($1, $2, $3, $4)
    ON CONFLICT (server) DO UPDATE SET
        failures = excluded.failures, failed_ms = excluded.failed_ms, retry_at_ms = excluded.retry_at_ms
    WHERE f.failed_ms < excluded.failed_ms
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFailure:
    """A server whose keys could not be had. failures: in a row. failed_ms: of the latest."""

    failures: int
    failed_ms: int
    retry_at_ms: int


async def get_keys(
    database: Database, wanted: Collection[tuple[ServerName, str]]
) -> dict[tuple[ServerName, str], VerifyKey]:
    """Return the stored keys of these (server, key id)."""
    rows = await database.fetch(_KEYS, [server for server, _ in wanted], [key_id for _, key_id in wanted])
    return {
        (row["server"], row["key_id"]): VerifyKey(row["verify_key"], row["valid_until_ms"], row["expired_ms"])
        for row in rows
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedAnswer:
    """An answer in which a server published keys.

    signed: canonical JSON with the server's signatures.
    key_ids: the keys of which it is the latest answer.
    valid_until_ms: of its keys in use, 0 if it has none of them any more.
    """

    server: ServerName
    signed: bytes
    key_ids: frozenset[str]
    valid_until_ms: int
    fetched_ms: int


async def get_signed_answers(database: Database, servers: Sequence[ServerName]) -> list[SignedAnswer]:
    """Return the stored answers of these servers: the latest one, and earlier ones with keys that are gone since."""
    rows = await database.fetch(_SIGNED, list(servers))
    return [
        SignedAnswer(
            server=row["server"],
            signed=row["signed"],
            key_ids=frozenset(row["key_ids"]),
            valid_until_ms=row["valid_until_ms"],
            fetched_ms=row["fetched_ms"],
        )
        for row in rows
    ]


async def store_keys(database: Database, published: PublishedKeys, now_ms: int) -> None:
    """Store the keys that a server publishes, and forget that it failed before. May be repeated."""
    ids = sorted(published.keys)
    keys = [published.keys[key_id] for key_id in ids]
    await database.execute(
        _STORE,
        published.server,
        ids,
        [key.key for key in keys],
        [key.valid_until_ts for key in keys],
        [key.expired_ts for key in keys],
        published.signed,
        now_ms,
    )
    await database.execute(_FORGET_FAILURES, published.server)


async def get_key_failures(database: Database, servers: Collection[ServerName]) -> dict[ServerName, KeyFailure]:
    """Return those of the servers whose keys could not be had."""
    rows = await database.fetch(_FAILURES, list(servers))
    return {
        row["server"]: KeyFailure(failures=row["failures"], failed_ms=row["failed_ms"], retry_at_ms=row["retry_at_ms"])
        for row in rows
    }


async def store_key_failure(database: Database, server: ServerName, failure: KeyFailure) -> None:
    """Store that the keys of a server could not be had. An earlier failure replaces no later one."""
    await database.execute(_FAILED, server, failure.failures, failure.failed_ms, failure.retry_at_ms)
