"""The users of our slots who are present: memory, with what ends by itself, told on the stream and saved now and then.

The owner of a user's slot keeps him; a new owner learns of him from the synchrotrons, which tell it of everybody who
syncs, and reads his status message from Postgres. A slot that goes takes its users with it, and nothing is told of
that: whoever read of them here waits for what the new owner tells (`workers/synchrotron/presence/presence.py`).
"""

import asyncio
import heapq
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from replication.streams import PRESENCE
from replication.streams.announcer import Announcer
from shared.core.errors import Unavailable
from shared.core.presence import UserPresence, VisiblePresence
from shared.core.rows import PresenceRow
from shared.core.slots import slot_of
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database
from shared.storage.user_data.presence import StoredPresence, get_presence, save_presence

_MAX_PEOPLE = 50_000  # present at a time in one process, some 1 KB each; who comes beyond is not seen
_LOOK_EVERY_S = 1.0  # how late what ends by itself is told
_LOOK_BATCH = 500  # users, some 10 us each: then others get their turn
_SAVE_EVERY_S = 5.0
_SAVE_BATCH = 1000


class UserSlots(Protocol):
    """What of the slot table is needed here."""

    def owns(self, kind: str, slot: int) -> bool: ...
    def on_change(self, listener: Callable[[str, set[int]], None]) -> None: ...


@dataclass(slots=True)
class _Kept:
    """shown: as it was last told; due_ms: when it is looked at again, by the earliest entry of the heap."""

    person: UserPresence = field(default_factory=UserPresence)
    shown: VisiblePresence | None = None
    due_ms: int | None = None


class PresencePeople:
    def __init__(self, database: Database, announcer: Announcer, slots: UserSlots, clock: Clock) -> None:
        self._database = database
        self._announcer = announcer
        self._slots = slots
        self._clock = clock
        self._people: dict[str, _Kept] = {}
        self._due: list[tuple[int, str]] = []
        self._unsaved: dict[str, StoredPresence] = {}
        announcer.keep(PRESENCE, self._all)
        slots.on_change(self._slots_changed)

    def owns(self, user_id: str) -> bool:
        return self._slots.owns("users", slot_of(user_id))

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._people

    def get(self, user_id: str) -> UserPresence | None:
        """Return who is present, or was until just now."""
        kept = self._people.get(user_id)
        return None if kept is None else kept.person

    async def bring(self, user_ids: Collection[str]) -> None:
        """Have these users in memory, as they were saved, as far as there is room. Raises Unavailable."""
        missing = [user_id for user_id in user_ids if user_id not in self._people]
        if not missing:
            return
        saved = await get_presence(self._database, missing)
        for user_id in missing:
            if user_id in self._people or len(self._people) >= _MAX_PEOPLE:
                continue
            kept = self._people[user_id] = _Kept()
            if (last := saved.get(user_id)) is not None:
                kept.person.status_msg, kept.person.last_active_ms = last.status_msg, last.last_active_ms

    def changed(self, user_ids: Iterable[str]) -> None:
        """Tell how these users are shown now, those of whom it was told otherwise."""
        now_ms = self._clock.now_ms()
        rows = [row for user_id in user_ids if (row := self._look(user_id, now_ms)) is not None]
        self._announcer.announce(PRESENCE, rows)

    async def run(self) -> None:
        """Tell what ends by itself, and save. Runs for ever."""
        save_at_s = 0.0
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            while due := self._take_due():
                self.changed(due)
                await asyncio.sleep(0)
            if self._clock.monotonic_s() >= save_at_s:
                await self.save()
                save_at_s = self._clock.monotonic_s() + _SAVE_EVERY_S

    def _take_due(self) -> list[str]:
        """Return some of those who are to be looked at now."""
        now_ms = self._clock.now_ms()
        due: list[str] = []
        while self._due and self._due[0][0] <= now_ms and len(due) < _LOOK_BATCH:
            at_ms, user_id = heapq.heappop(self._due)
            kept = self._people.get(user_id)
            if kept is not None and kept.due_ms == at_ms:
                kept.due_ms = None
                due.append(user_id)
        return due

    async def save(self) -> None:
        """Save what changed since the last time; while the database is away it is kept for the next."""
        try:
            while self._unsaved:
                batch = list(self._unsaved.values())[:_SAVE_BATCH]
                await save_presence(self._database, batch)
                for one in batch:
                    if self._unsaved.get(one.user_id) is one:
                        del self._unsaved[one.user_id]
        except Unavailable:
            return

    async def save_now(self, user_id: str) -> None:
        """Save what changed of one user before going on. Raises Unavailable; then it is saved later."""
        one = self._unsaved.get(user_id)
        if one is not None:
            await save_presence(self._database, [one])
            if self._unsaved.get(user_id) is one:
                del self._unsaved[user_id]

    def _look(self, user_id: str, now_ms: int) -> PresenceRow | None:
        kept = self._people.get(user_id)
        if kept is None:
            return None
        kept.person.forget_lapsed(now_ms)
        shown, before = kept.person.visible(now_ms), kept.shown
        kept.shown = shown
        next_ms = kept.person.next_change_ms(now_ms)
        if next_ms is None:
            del self._people[user_id]
        elif kept.due_ms is None or next_ms < kept.due_ms:
            kept.due_ms = next_ms
            heapq.heappush(self._due, (next_ms, user_id))
        if shown.same_except_last_active(before):
            return None
        if len(self._unsaved) < _MAX_PEOPLE:
            self._unsaved[user_id] = self._stored(user_id, shown, now_ms)
        return self._row(user_id, shown)

    def _slots_changed(self, kind: str, now: set[int]) -> None:
        if kind == "users":
            for user_id in [user_id for user_id in self._people if slot_of(user_id) not in now]:
                del self._people[user_id]

    def _all(self) -> list[PresenceRow]:
        return [self._row(user_id, kept.shown) for user_id, kept in self._people.items() if kept.shown is not None]

    def _row(self, user_id: str, shown: VisiblePresence) -> PresenceRow:
        position = self._announcer.next_ephemeral_position(PRESENCE)
        return PresenceRow(
            position, self._announcer.lease, user_id, shown.state, shown.last_active_ms, shown.currently_active,
            shown.status_msg,
        )  # fmt: skip

    @staticmethod
    def _stored(user_id: str, shown: VisiblePresence, now_ms: int) -> StoredPresence:
        return StoredPresence(user_id, shown.state, shown.status_msg, shown.last_active_ms, now_ms)
