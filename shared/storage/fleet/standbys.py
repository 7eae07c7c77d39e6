"""How durable "committed" is: whether a standby has what the primary acknowledged. Architecture page, section 3."""

from dataclasses import dataclass
from enum import IntEnum

from shared.storage.engine.pool import Database

# A commit waits where the primary names standbys and the session does not waive it, whatever is connected. The state of
# a sender is shown to roles with pg_monitor only; to others a running backup looks like a standby.
_STANDBYS = """
    SELECT current_setting('synchronous_standby_names') AS names,
           current_setting('synchronous_commit') IN ('on', 'remote_write', 'remote_apply') AS waits,
           count(*) FILTER (WHERE state IS DISTINCT FROM 'backup')::int AS connected
    FROM pg_stat_replication
"""


class Durability(IntEnum):
    """What a fail-over keeps of what was acknowledged; the greater the more. The metric has these numbers."""

    NONE = 0  # no standby is connected
    ASYNCHRONOUS = 1  # a standby follows: its last moments may be missing
    SYNCHRONOUS = 2  # each commit waits for a standby


@dataclass(frozen=True, slots=True)
class Standbys:
    """connected: standbys that stream just now; names: `synchronous_standby_names`."""

    durability: Durability
    connected: int
    names: str


async def get_standbys(database: Database) -> Standbys:
    """Return how the primary's commits are kept. Raises Unavailable."""
    row = await database.fetchrow(_STANDBYS)
    assert row is not None
    if row["names"].strip() and row["waits"]:
        durability = Durability.SYNCHRONOUS
    else:
        durability = Durability.ASYNCHRONOUS if row["connected"] else Durability.NONE
    return Standbys(durability, row["connected"], row["names"])
