"""A user's notifications, read backwards, against a model that evaluates every event for every member."""

from random import Random

import asyncpg

from shared.storage.push.notifications import END, get_counted_events, get_ordinals_from, get_placed_events
from tests.fix_servers import TestDatabase
from tests.storage.test_read_unread import store
from tests.unread_model import USERS, RoomModel


def _expected(model: RoomModel, user: str) -> dict[int, tuple[int, int]]:
    """Return ordinal -> counts, of events that notified the user and are not redacted."""
    found = {}
    for event in model.events:
        n, h = event.outcomes.get(model.group_at(user, event.ordinal)[1], (0, 0))
        own_n, own_h = event.users.get(user, (0, 0))
        if event.redacted_at is None and n + own_n:
            found[event.ordinal] = (n + own_n, h + own_h)
    return found


async def test_notifying_events_are_read_backwards(postgres: TestDatabase) -> None:
    random = Random(7)
    models = {number: RoomModel(random) for number in range(6)}
    for model in models.values():
        for _ in range(random.randint(40, 80)):
            model.act()
    conn = await asyncpg.connect(postgres.dsn)
    for room, model in models.items():
        await store(conn, room, model)
    for user in USERS:
        for limit in (1, 5, 1000):
            before = {room: random.choice((END, random.randint(1, model.last))) for room, model in models.items()}
            found = await get_counted_events(conn, user, before, limit)
            for room, model in models.items():
                one = found.get(room)
                down_to = one.read_down_to if one is not None else 0
                counted = {} if one is None else one.counted
                redacted = {event.ordinal for event in model.events if event.redacted_at is not None}
                shown = {o: count for o, count in counted.items() if o > down_to and count[0] and o not in redacted}
                expected = _expected(model, user)
                assert shown == {o: count for o, count in expected.items() if down_to < o < before[room]}
                assert limit < 1000 or down_to == 0
    for position in (1, 17, 39, 1000):
        places = await get_ordinals_from(conn, list(models), position)
        assert places == {room: min(position, model.last + 1) for room, model in models.items()}
    await conn.execute("DELETE FROM events WHERE room_nid = 0 AND ordinal < 10")  # purged
    assert await get_ordinals_from(conn, [0], 17) == {0: 17}
    placed = await get_placed_events(conn, [(0, 3), (0, 12), (1, 3)])
    assert placed.keys() == {(0, 12), (1, 3)}
    assert placed[1, 3].sender == models[1].events[2].sender
    await conn.close()
