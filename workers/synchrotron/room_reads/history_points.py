"""The point of a room's history that a client's token names."""

from shared.core.history_point import HistoryPoint, point_after
from shared.rooms.place_tokens import is_place, parse_place
from shared.rooms.room_view import RoomView
from shared.storage.engine.pool import Database
from shared.storage.events.timeline import get_ordinal_at
from workers.synchrotron.sliding.pos import sync_token_in
from workers.synchrotron.waiting.sync_tokens import Tokens


async def place_of_token(database: Database, tokens: Tokens, room: RoomView, text: str) -> HistoryPoint:
    """Return where the token stands in the room.

    A token of /sync, or of sliding sync, stands right behind everything that its answer told: what is fetched later
    into a gap that came after it lies beyond it. Raises M_INVALID_PARAM.
    """
    if is_place(text):
        return parse_place(text)
    vector = (await tokens.parse(sync_token_in(text))).vector("events")
    return point_after(
        HistoryPoint(await get_ordinal_at(database, room.room_nid, vector.known, vector.base, vector.above))
    )
