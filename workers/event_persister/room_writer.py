"""Write events into rooms for the handlers: find the room, build the events, commit them, wait.

The usual path awaits nothing but the commit: the room is in memory and numbers were reserved ahead.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from shared.core.errors import MatrixError, Unavailable, forbidden
from shared.core.events import Event, event_from_storage
from shared.core.identifiers import EventId, RoomId, check_room_id
from shared.runtime.clock import Clock
from shared.storage.engine.number_blocks import NumberBlock
from shared.storage.engine.pool import Database
from shared.storage.events.client_transactions import get_transaction
from shared.storage.events.stored_events import StoredEvent, get_events
from workers.event_persister.commit.committer import AlreadySent, Committer
from workers.event_persister.graph.slow_sends import SlowSends
from workers.event_persister.loading.push_rules import PushRules
from workers.event_persister.loading.rooms_in_memory import RoomsInMemory
from workers.event_persister.room.drafts import Draft, NewRoom, RoomChanged, RoomLost, StateEntry
from workers.event_persister.room.event_forms import redacted
from workers.event_persister.room.live_room import LiveRoom, Write

T = TypeVar("T")

_TRIES = 3  # a room that is lost so often is not ours


class RoomWriter:
    """event_numbers: of the sequence `event_nids`. max_state_bytes: of a room (`room/state_sizes.py`)."""

    def __init__(
        self,
        *,
        rooms: RoomsInMemory,
        committer: Committer,
        event_numbers: NumberBlock,
        slow_sends: SlowSends,
        push_rules: PushRules,
        database: Database,
        clock: Clock,
        max_state_bytes: int,
    ) -> None:
        self._max_state_bytes = max_state_bytes
        self._slow_sends = slow_sends
        self._push_rules = push_rules
        self._rooms = rooms
        self._committer = committer
        self._numbers = event_numbers
        self._database = database
        self._clock = clock

    async def find(self, room_id: RoomId) -> LiveRoom | None:
        """Return the room, None if it does not exist here. Raises M_INVALID_PARAM if it is no room id."""
        return await self._rooms.get(check_room_id(room_id))

    async def in_room(
        self, room_id: RoomId, action: Callable[[LiveRoom], Awaitable[T]], *, absent: MatrixError | None = None
    ) -> T:
        """Run an action in a room. Run it again if the room was dropped from memory before anything was built.

        absent: the error for a room that does not exist here. None: M_FORBIDDEN, as for a room that the requester is
            not in.
        """
        for _ in range(_TRIES):
            room = await self.find(room_id)
            if room is None:
                raise absent or forbidden("You are not in this room")
            try:
                return await action(room)
            except RoomLost:
                continue
        raise Unavailable("The room is moving to another process. Try again")

    async def write(self, room: LiveRoom, drafts: Sequence[Draft], key: bytes | None = None) -> list[EventId]:
        """Build events on the room's pending layer, store them (all or none) and return their ids.

        key: of the client's transaction. If it was used before, the id of its event is returned.
        Raises AuthRuleViolation, MatrixError (M_TOO_LARGE, M_BAD_JSON ...), Unavailable, RoomLost.
        """
        if key is not None and (answered := self.answer_of(room, key)) is not None:
            return [await answered]
        self._committer.check_room_for_more()
        for draft in drafts:
            if draft.state_key is not None:
                room.state.sizes.check((draft.type, draft.state_key), draft.content, self._max_state_bytes)
        await self._numbers.reserve(len(drafts))
        while not self._can_build(room, drafts):
            if room.held is not None:
                await asyncio.shield(room.held)
            elif self._slow_sends.concerns(room):
                return [await self._send_slowly(room, draft, key) for draft in drafts]
            else:
                await self._load_missing(room, drafts)
            await self._numbers.reserve(len(drafts))
        # From here to `submit` nothing waits, so the state that was checked is the state that is built on.
        if room.lost:
            raise RoomLost("The room is moving")
        if key is not None and (answered := self.answer_of(room, key)) is not None:
            return [await answered]
        write = Write(
            room=room,
            drafts=drafts,
            event_nids=[self._numbers.take() for _ in drafts],
            done=asyncio.get_running_loop().create_future(),
            key=key,
        )
        room.build(write, self._clock.now_ms())
        self._committer.submit(write)
        try:
            return await write.wait()
        except AlreadySent:
            assert key is not None
            return [await self._first_answer(room, key)]

    def _can_build(self, room: LiveRoom, drafts: Sequence[Draft]) -> bool:
        """Return True in the usual case: all that building needs is in memory, and nothing else comes first."""
        return (
            room.held is None
            and not self._slow_sends.concerns(room)
            and not room.builder.missing(drafts)
            and room.state.push.lacking(drafts) is None
        )

    async def _load_missing(self, room: LiveRoom, drafts: Sequence[Draft]) -> None:
        if missing := room.builder.missing(drafts):
            await self._load(room, missing)
        if (lacking := room.state.push.lacking(drafts)) is not None:
            await self._push_rules.load(room, lacking)

    async def _first_answer(self, room: LiveRoom, key: bytes) -> EventId:
        event_id = await get_transaction(self._database, room.room_nid, key)
        if event_id is None:
            raise Unavailable("The event of this transaction is not known any more")
        return event_id

    async def _send_slowly(self, room: LiveRoom, draft: Draft, key: bytes | None) -> EventId:
        """Send one event by the slow path. Calls with the same transaction meanwhile share its result."""
        if key is None:
            return await self._place_slowly(room, draft, None)
        answered = self.answer_of(room, key)
        if answered is not None:
            return await answered
        asked = room.slow_sends[key] = asyncio.get_running_loop().create_future()
        try:
            event_id = await self._place_slowly(room, draft, key)
        except BaseException as error:
            # The client went away before there was a result: the others must try again.
            asked.set_exception(error if isinstance(error, Exception) else Unavailable("It was not sent. Try again"))
            asked.exception()
            raise
        else:
            asked.set_result(event_id)
            return event_id
        finally:
            del room.slow_sends[key]

    async def _place_slowly(self, room: LiveRoom, draft: Draft, key: bytes | None) -> EventId:
        for _ in range(_TRIES):
            try:
                return await self._slow_sends.write(room, draft, key)
            except RoomChanged:
                continue
            except AlreadySent:
                assert key is not None
                return await self._first_answer(room, key)
        raise Unavailable("The room changes too quickly. Try again")

    async def build_ahead(self, room: LiveRoom, draft: Draft) -> Event:
        """Build and sign an event whose id must be known before it can be stored; `write_built` stores it."""
        for _ in range(_TRIES):
            with suppress(RoomChanged):
                return await self._slow_sends.build(room, draft)
        raise Unavailable("The room changes too quickly")

    async def write_built(self, room: LiveRoom, event: Event, draft: Draft) -> None:
        """Store an event of `build_ahead`, authorised again. What came since lies beside it in the room's graph.

        Raises as `write`.
        """
        for _ in range(_TRIES):
            with suppress(RoomChanged):
                await self._slow_sends.place(room, event, draft, None)
                return
        raise Unavailable("The room changes too quickly")

    async def write_new_room(self, room: LiveRoom, create_nid: int, drafts: Sequence[Draft], new_room: NewRoom) -> None:
        """Store a new room, with all of its first events at once, and keep it in memory.

        Raises as `write`, and M_ROOM_IN_USE if its alias is in use.
        """
        self._committer.check_room_for_more()
        await self._numbers.reserve(len(drafts))
        self._push_rules.follow(room.state.push)
        while (lacking := room.state.push.lacking(drafts)) is not None:
            await self._push_rules.load(room, lacking)
            # Others took numbers meanwhile.
            await self._numbers.reserve(len(drafts))
        write = Write(
            room=room,
            drafts=drafts,
            event_nids=[self._numbers.take() for _ in drafts],
            done=asyncio.get_running_loop().create_future(),
            new_room=new_room,
        )
        room.build(write, self._clock.now_ms(), create_nid=create_nid)
        self._committer.submit(write)
        await asyncio.shield(write.done)
        self._rooms.put(room)

    async def take_event_number(self) -> int:
        await self._numbers.reserve(1)
        return self._numbers.take()

    def answer_of(self, room: LiveRoom, key: bytes) -> Awaitable[EventId] | None:
        """Return an awaitable of the event id of a client's transaction, None if memory does not know it."""
        answered = room.transactions.get(key)
        if answered is not None:
            return _now(answered[0])
        write = room.under_way.get(key)
        if write is not None:
            return _last_of(write)
        asked = room.slow_sends.get(key)
        return None if asked is None else asyncio.shield(asked)

    async def first_answer(self, room: LiveRoom, key: bytes) -> EventId | None:
        """Return the event id of a client's transaction, from memory or the database. None: it was never used."""
        if (answered := self.answer_of(room, key)) is not None:
            return await answered
        return await get_transaction(self._database, room.room_nid, key)

    async def settled(self, room: LiveRoom, entry: StateEntry) -> None:
        """Wait until this state is stored, so that an answer from it cannot be taken back.

        Raises the error of its write if it was not stored.
        """
        write = room.write_of(entry.event_nid)
        if write is not None:
            await asyncio.shield(write.done)

    async def state_event(self, room: LiveRoom, entry: StateEntry) -> Event:
        """Return the whole event of a state entry, from memory or from the database."""
        event = room.state.event_of(entry)
        if event is None:
            [stored] = await get_events(self._database, room.room_nid, [entry.event_nid])
            event = _event_of(room, stored)
            room.state.keep(entry.event_nid, event)
        return event

    async def _load(self, room: LiveRoom, event_nids: set[int]) -> None:
        stored = await get_events(self._database, room.room_nid, list(event_nids))
        if len(stored) < len(event_nids):
            raise RoomLost("State of the room is not in the database")
        for event in stored:
            room.state.keep(event.event_nid, _event_of(room, event))


def _event_of(room: LiveRoom, stored: StoredEvent) -> Event:
    event = event_from_storage(room.version, stored.json, stored.event_id)
    return event if stored.redacted_by is None else redacted(room.version, event)


async def _now(event_id: EventId) -> EventId:
    return event_id


async def _last_of(write: Write) -> EventId:
    try:
        return (await asyncio.shield(write.done))[-1]
    except RoomChanged:
        raise Unavailable("The room changes too quickly. Try again") from None
