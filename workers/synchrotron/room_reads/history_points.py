"""The points in a room's history that clients' tokens name."""

from shared.core.errors import invalid_param
from shared.core.history_point import HistoryPoint, point_after
from shared.rooms.history_tokens import is_history_token, parse_point
from shared.rooms.room_view import RoomView
from shared.storage.engine.pool import Database
from shared.storage.events.timeline import get_ordinal_at
from workers.synchrotron.sliding.pos import sync_token_in
from workers.synchrotron.waiting.sync_tokens import SyncTokens


async def point_of_token(database: Database, tokens: SyncTokens, room: RoomView, text: str) -> HistoryPoint:
    """Return the point of a token. Raises M_INVALID_PARAM.

    A token of either form of sync names the point right after everything in its response. History that is fetched
    later into a gap after that event lies beyond the point.
    """
    if is_history_token(text):
        return parse_point(text)
    vector = (await tokens.parse(sync_token_in(text))).vector("events")
    ordinal = await get_ordinal_at(database, room.room_nid, vector.known, vector.base, vector.above)
    return point_after(HistoryPoint(ordinal))


async def optional_point(
    database: Database, tokens: SyncTokens, room: RoomView, text: str | None
) -> HistoryPoint | None:
    """Return the point of an optional parameter, None without one. Raises M_INVALID_PARAM."""
    if text is None:
        return None
    if not text:
        raise invalid_param("A token must not be empty")
    return await point_of_token(database, tokens, room, text)
