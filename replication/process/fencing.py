"""Ending a process's lease: by its supervisor, by the leader, or by the process itself."""

from shared.storage.engine.pool import Connection
from shared.storage.fleet import leases


async def fence_lease(conn: Connection, lease: int) -> None:
    """Fence one lease: afterwards nothing is ever written under it, its slots and duties are free."""
    await leases.fence(conn, lease)


async def fence_process(conn: Connection, process: str) -> list[int]:
    """Fence every lease of the process with this name; return them. For a supervisor that saw its child exit."""
    ended = await leases.get_older_incarnations(conn, process, 0)
    for lease in ended:
        await fence_lease(conn, lease)
    return ended
