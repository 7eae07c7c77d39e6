"""Log-in attempts, counted in the database per account and per address, by its clock: a token bucket each."""

from collections.abc import Sequence

from shared.storage.engine.pool import Database

# Uses the primary key of login_attempts. Keys are in order, so that two attempts cannot deadlock. A denied attempt
# takes no token. $1 keys, $2 burst, $3 tokens per second.
_COUNT = """
    INSERT INTO login_attempts AS a (key, tokens, allowed, refilled_at)
    SELECT key, $2::float8 - 1, true, clock_timestamp() FROM unnest($1::text[]) AS key ORDER BY key
    ON CONFLICT (key) DO UPDATE SET
        (tokens, allowed, refilled_at) = (
            SELECT CASE WHEN now.tokens >= 1 THEN now.tokens - 1 ELSE now.tokens END, now.tokens >= 1, clock_timestamp()
            FROM (SELECT least($2::float8,
                               a.tokens + extract(epoch FROM clock_timestamp() - a.refilled_at)::float8 * $3::float8)
                         AS tokens) AS now)
    RETURNING allowed, tokens
"""


async def count_login_attempt(database: Database, keys: Sequence[str], burst: int, per_second: float) -> float:
    """Count one attempt against each key. Return the seconds to wait, 0.0 if all keys allow the attempt.

    keys: such as "account:@alice:example.org" and "address:192.0.2.1", free of U+0000.
    """
    rows = await database.fetch(_COUNT, list(keys), float(burst), per_second)
    return max((0.0 if row["allowed"] else (1.0 - row["tokens"]) / per_second) for row in rows)
