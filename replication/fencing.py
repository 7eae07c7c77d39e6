"""Ending a process's lease: by its supervisor, by the leader, or by the process itself."""

from shared.storage import leases
from shared.storage.pool import Connection

#: The greatest position that a writer stored, per stream: its final position once it is fenced.
FINAL_POSITIONS = {
    "events": "SELECT max(position) FROM events WHERE writer = $1 AND position > start_position",
    "receipts": "SELECT max(position) FROM receipts WHERE writer = $1 AND position > start_position",
    "account_data": "SELECT max(position) FROM account_data WHERE writer = $1 AND position > start_position",
    "sessions": "SELECT max(position) FROM session_changes WHERE writer = $1 AND position > start_position",
}


async def fence_lease(conn: Connection, lease: int) -> None:
    """Fence one lease: afterwards nothing is ever written under it, its slots and duties are free."""
    await leases.fence(conn, lease, FINAL_POSITIONS)


async def fence_process(conn: Connection, process: str) -> list[int]:
    """Fence every lease of the process with this name; return them. For a supervisor that saw its child exit."""
    ended = await leases.get_older_incarnations(conn, process, 0)
    for lease in ended:
        await fence_lease(conn, lease)
    return ended
