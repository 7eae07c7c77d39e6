"""Drains that operators asked for: the processes that are to have no slots. Architecture page, section 3."""

from collections.abc import Mapping

from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.pool import Database
from shared.storage.engine.statements import parameters


@parameters
class AskDrain:
    """process: its name. leaving: the lease of the incarnation that is to end. None: it runs on without slots."""

    process: str
    leaving: int | None


@parameters
class EndDrain:
    process: str


ASK_DRAIN = fenced_statement(
    "ask_drain",
    AskDrain,
    {
        "asked": """
            INSERT INTO drains (process, lease) SELECT :process, :leaving::bigint FROM fence
            ON CONFLICT (process) DO UPDATE SET lease = excluded.lease, asked_at = clock_timestamp()
            RETURNING 1
        """
    },
)

#: `ended` in the answer is 0 if there was no such drain.
END_DRAIN = fenced_statement(
    "end_drain",
    EndDrain,
    {"ended": "DELETE FROM drains USING fence WHERE process = :process RETURNING 1"},
    "(SELECT count(*) FROM ended) AS ended",
)

_DRAINS = "SELECT process, lease FROM drains"


async def get_drains(database: Database) -> Mapping[str, int | None]:
    """Return process -> the lease that is to end. None: the process runs on without slots."""
    return {row["process"]: row["lease"] for row in await database.fetch(_DRAINS)}
