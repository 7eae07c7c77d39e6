"""Requests that block the event loop of a process, noted so that others learn of what the process died.

A process notes a request only once it has blocked the loop for half a second, and removes the note when the request is
done. A note whose lease is gone is a death.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.storage.engine.pool import Connection

# Deaths of which no request should suffer any more go with the next note.
_NOTE = """
    WITH old AS (DELETE FROM blocking_work WHERE noted_at < clock_timestamp() - interval '1 hour')
    INSERT INTO blocking_work (lease, endpoint, user_id, fingerprint)
    SELECT lease, $2, $3, $4 FROM leases WHERE lease = $1
    ON CONFLICT (lease) DO UPDATE SET endpoint = excluded.endpoint, user_id = excluded.user_id,
        fingerprint = excluded.fingerprint, noted_at = excluded.noted_at
"""
_REMOVE = "DELETE FROM blocking_work WHERE lease = $1"
_DEATHS = """
    SELECT endpoint, user_id, fingerprint, count(*) AS deaths FROM blocking_work w
    WHERE noted_at > clock_timestamp() - interval '1 hour' AND NOT EXISTS (SELECT FROM leases l WHERE l.lease = w.lease)
    GROUP BY endpoint, user_id, fingerprint LIMIT 10000
"""


@dataclass(frozen=True, slots=True)
class BlockingWork:
    """A request at work.

    user_id: its sender, or their address.
    fingerprint: the same for a repetition of the request.
    """

    endpoint: str
    user_id: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Deaths:
    """Deaths of processes within the last hour.

    by_user: by (endpoint, user id).
    by_request: by fingerprint.
    """

    by_user: Mapping[tuple[str, str], int] = field(default_factory=dict)
    by_request: Mapping[bytes, int] = field(default_factory=dict)


async def note_work(conn: Connection, lease: int, work: BlockingWork | None) -> None:
    """Note what a process works on. None: nothing that takes long."""
    if work is None:
        await conn.execute(_REMOVE, lease)
    else:
        await conn.execute(_NOTE, lease, work.endpoint, work.user_id, work.fingerprint)


async def get_deaths(conn: Connection) -> Deaths:
    """Return of what processes died."""
    by_user: dict[tuple[str, str], int] = {}
    by_request: dict[bytes, int] = {}
    for endpoint, user_id, fingerprint, deaths in await conn.fetch(_DEATHS):
        by_user[endpoint, user_id] = by_user.get((endpoint, user_id), 0) + deaths
        by_request[fingerprint] = by_request.get(fingerprint, 0) + deaths
    return Deaths(by_user, by_request)
