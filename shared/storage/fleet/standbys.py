"""The durability of commits: if a standby has what the primary acknowledged. Architecture page, section 3."""

from dataclasses import dataclass
from enum import IntEnum

from shared.storage.engine.pool import Database

# A commit waits if the primary names standbys and the session does not waive it, whatever is connected. Only roles with
# pg_monitor see the state of a sender; for others a running backup looks like a standby.
_STANDBYS = """
    SELECT current_setting('synchronous_standby_names') AS names,
           current_setting('synchronous_commit') IN ('on', 'remote_write', 'remote_apply') AS waits,
           count(*) FILTER (WHERE state IS DISTINCT FROM 'backup')::int AS connected
    FROM pg_stat_replication
"""


class Durability(IntEnum):
    """The guarantee for acknowledged commits at a fail-over. Greater is better. The metric has these numbers."""

    NONE = 0  # no standby is connected
    ASYNCHRONOUS = 1  # a standby follows: the last commits may be missing
    SYNCHRONOUS = 2  # each commit waits for a standby


@dataclass(frozen=True, slots=True)
class Standbys:
    """connected: the number of standbys that stream now. names: `synchronous_standby_names`."""

    durability: Durability
    connected: int
    names: str


async def get_standbys(database: Database) -> Standbys:
    """Return the standbys and the durability that they give. Raises Unavailable."""
    row = await database.fetchrow(_STANDBYS)
    assert row is not None
    if row["names"].strip() and row["waits"]:
        durability = Durability.SYNCHRONOUS
    else:
        durability = Durability.ASYNCHRONOUS if row["connected"] else Durability.NONE
    return Standbys(durability, row["connected"], row["names"])
