"""Check that every client's final view has each sent event once, in order."""

import asyncio
from collections.abc import Sequence
from typing import Any

from tests.fleet.clients.chat_client import ChatClient, RoomView, View
from tests.fleet.clients.nio_client import NioClient
from tests.fleet.conversation import WAIT_S, Ledger

#: Time for /sync to deliver what is pending when the last receipt is sent.
_SETTLE_S = 20.0
_POLL_S = 0.5


def check_order(ledger: Ledger, order: Sequence[str]) -> None:
    """Check that the server's order has no event twice and keeps each sender's order.

    order: event ids from /messages
    """
    place = {event: index for index, event in enumerate(order)}
    assert len(place) == len(order), f"{ledger.room}: events twice in its history"
    for sender, said in ledger.sent.items():
        places = [place.get(event) for event, _ in said]
        assert None not in places, f"{ledger.room}: an acknowledged message of {sender} is lost"
        assert places == sorted(places, key=lambda index: index or 0), (
            f"{ledger.room}: {sender}'s messages changed order"
        )


async def settled_view(client: ChatClient, ledgers: Sequence[Ledger]) -> View:
    """Return the client's view of these rooms, once the receipts of all remaining members have reached it."""
    end = asyncio.get_running_loop().time() + _SETTLE_S
    while True:
        view = await client.view([ledger.room for ledger in ledgers])
        if all(_settled(client, ledger, view.rooms[ledger.room]) for ledger in ledgers):
            return view
        if asyncio.get_running_loop().time() > end:
            return view  # the comparison reports what is missing
        await asyncio.sleep(_POLL_S)


def _settled(client: ChatClient, ledger: Ledger, room: RoomView | None) -> bool:
    if client.user_id not in _receipts(ledger):
        return True
    return room is not None and set(_receipts(ledger).items()) <= set(room.receipts.items())


def _receipts(ledger: Ledger) -> dict[str, str]:
    return {client.user_id: ledger.farewell for client in ledger.cast.staying}


def check_view(client: ChatClient, view: View, ledgers: Sequence[Ledger], orders: dict[str, list[str]]) -> None:
    """Compare what a client shows of each room with the ledger and with the server's order."""
    assert not view.faults, f"{client.username}: {view.faults[:5]}"
    for ledger in ledgers:
        where = f"{client.username} in {ledger.room} (version {ledger.cast.version})"
        seen = view.rooms[ledger.room]
        if client in ledger.cast.staying:
            assert seen is not None, f"{where}: room unknown"
            _check_member(where, seen, ledger, orders[ledger.room])
        elif client is ledger.cast.leaver:
            _check_leaver(where, seen, ledger, orders[ledger.room])
        else:
            assert seen is None or seen.membership == "leave", f"{where}: {seen and seen.membership}"


def _check_member(where: str, seen: RoomView, ledger: Ledger, order: list[str]) -> None:
    assert seen.membership == "join", where
    _check_same(where, [event.event_id for event in seen.events], order)
    bodies = {event: body for said in ledger.sent.values() for event, body in said}
    shown = {event.event_id: event.body for event in seen.events if event.type == "m.room.message"}
    assert shown == {event: None if event in ledger.redacted else body for event, body in bodies.items()}, where
    senders = {event.event_id: event.sender for event in seen.events if event.type == "m.room.message"}
    assert senders == {event: sender for sender, said in ledger.sent.items() for event, _ in said}, where
    assert seen.members == {client.user_id: "join" for client in ledger.cast.staying}, where
    assert (seen.name, seen.topic) == (f"Room {ledger.cast.number} 🐝", ledger.topics[-1]), where
    read = {user: seen.receipts.get(user) for user in _receipts(ledger)}
    assert read == _receipts(ledger), f"{where}: receipts"


def _check_leaver(where: str, seen: RoomView | None, ledger: Ledger, order: list[str]) -> None:
    """Check that a member who left sees a part of the room without gaps, up to where they left."""
    if ledger.cast.leaver_forgets:
        assert seen is None, f"{where}: still shown after it was forgotten"
        return
    assert seen is not None and seen.membership == "leave", where
    events = [event.event_id for event in seen.events]
    start = order.index(events[0])
    _check_same(where, events, order[start : start + len(events)])
    last = seen.events[-1]
    assert (last.type, last.sender) == ("m.room.member", ledger.cast.leaver.user_id), f"{where}: {last}"


def _check_same(where: str, seen: Sequence[Any], expected: Sequence[Any]) -> None:
    """Assert equality, with a readable message."""
    if seen == expected:
        return
    missing = [event for event in expected if event not in set(seen)]
    extra = [event for event in seen if event not in set(expected)]
    at = next(
        (i for i, (a, b) in enumerate(zip(seen, expected, strict=False)) if a != b), min(len(seen), len(expected))
    )
    raise AssertionError(
        f"{where}: {len(seen)} events seen, {len(expected)} expected; missing {missing[:5]}, not expected {extra[:5]},"
        f" first difference at {at}"
    )


def check_same_view(where: str, view: View, other: View) -> None:
    """Check that two devices of one user show the same."""
    assert not view.faults, f"{where}: {view.faults[:5]}"
    for room, expected in other.rooms.items():
        seen = view.rooms[room]
        assert seen is not None and expected is not None, f"{where}: {room} unknown"
        _check_same(f"{where} in {room}", list(seen.events), list(expected.events))
        assert seen == expected, f"{where} in {room}"


async def check_all(clients: Sequence[ChatClient], ledgers: Sequence[Ledger]) -> None:
    """Wait until every client has settled, then check each client's view and its joined rooms on the server."""
    reader = {ledger.room: _reader(ledger) for ledger in ledgers}
    histories = await asyncio.gather(*(reader[ledger.room].history(ledger.room) for ledger in ledgers))
    orders = {ledger.room: order for ledger, order in zip(ledgers, histories, strict=True)}
    for ledger in ledgers:
        check_order(ledger, orders[ledger.room])
    async with asyncio.timeout(2 * WAIT_S):
        views = await asyncio.gather(*(settled_view(client, ledgers) for client in clients))
        joined = await asyncio.gather(*(client.joined_rooms() for client in clients))
    for client, view, rooms in zip(clients, views, joined, strict=True):
        assert rooms == {ledger.room for ledger in ledgers if client in ledger.cast.staying}, client.username
        check_view(client, view, ledgers, orders)


def _reader(ledger: Ledger) -> NioClient:
    return next(client for client in ledger.cast.staying if isinstance(client, NioClient))
