"""Drains that an operator asked for: which processes shall have no slots. Architecture page, section 3."""

from collections.abc import Mapping

from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.pool import Database

#: $2 name of the process, $3 the lease of the incarnation that shall end, NULL: it goes on running without slots.
ASK_DRAIN = fenced_statement(
    "ask_drain",
    {
        "asked": """
            INSERT INTO drains (process, lease) SELECT $2, $3::bigint FROM fence
            ON CONFLICT (process) DO UPDATE SET lease = excluded.lease, asked_at = clock_timestamp()
            RETURNING 1
        """
    },
)

#: $2 name of the process. The answer says whether there was anything to take back.
END_DRAIN = fenced_statement(
    "end_drain",
    {"ended": "DELETE FROM drains USING fence WHERE process = $2 RETURNING 1"},
    "(SELECT count(*) FROM ended) AS ended",
)

_DRAINS = "SELECT process, lease FROM drains"


async def get_drains(database: Database) -> Mapping[str, int | None]:
    """Return process -> the lease that shall end, None where the process goes on without slots."""
    return {row["process"]: row["lease"] for row in await database.fetch(_DRAINS)}
