"""Log-in attempts, counted in the database per account and per address, by its clock: a token bucket each.

The addresses of a user's earlier log-ins and of their devices are known: each has a bucket of its own for the account.
"""

from collections.abc import Collection, Sequence

from shared.core.identifiers import UserId
from shared.storage.engine.pool import Database

#: Uses the primary keys of login_addresses and devices.
_KNOWN_ADDRESSES = """
    (SELECT address FROM login_addresses WHERE user_id = ANY($1::text[]))
    UNION ALL
    (SELECT last_seen_ip FROM devices WHERE user_id = ANY($1::text[]) AND last_seen_ip IS NOT NULL
     ORDER BY last_seen_ms DESC LIMIT 100)
"""

# Uses the primary key of login_attempts. Keys are in order, so that two attempts cannot deadlock. A denied attempt
# takes no token. A clock that jumps back takes none either. $1 keys, $2 burst, $3 tokens per second.
_COUNT = """
    INSERT INTO login_attempts AS a (key, tokens, allowed, refilled_at)
    SELECT key, $2::float8 - 1, true, clock_timestamp() FROM unnest($1::text[]) AS key ORDER BY key
    ON CONFLICT (key) DO UPDATE SET
        (tokens, allowed, refilled_at) = (
            SELECT CASE WHEN now.tokens >= 1 THEN now.tokens - 1 ELSE now.tokens END, now.tokens >= 1, clock_timestamp()
            FROM (SELECT least($2::float8,
                               a.tokens + greatest(0, extract(epoch FROM clock_timestamp() - a.refilled_at))::float8
                                          * $3::float8) AS tokens) AS now)
    RETURNING allowed, tokens
"""


async def count_login_attempt(database: Database, keys: Sequence[str], burst: int, per_second: float) -> float:
    """Count one attempt against each key. Return the seconds to wait, 0.0 if all keys allow the attempt.

    keys: such as "account:@alice:example.org" and "address:192.0.2.1".
    """
    rows = await database.fetch(_COUNT, list(keys), float(burst), per_second)
    return max((0.0 if row["allowed"] else (1.0 - row["tokens"]) / per_second) for row in rows)


async def get_login_addresses(database: Database, user_ids: Collection[UserId]) -> set[str]:
    """Return the addresses from which these users logged in, and those where their devices were last seen."""
    return {row[0] for row in await database.fetch(_KNOWN_ADDRESSES, list(user_ids))}
