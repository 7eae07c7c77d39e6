"""The present users of this process's slots: kept in memory, announced on the stream, saved every few seconds.

The owner of a user's slot keeps their presence. A new owner learns it from the synchrotrons, which report every device
that syncs, and reads the status message from Postgres. When a slot moves away, its users are dropped without an
announcement. Readers wait for the rows of the new owner (`workers/synchrotron/presence/feed.py`).
"""

import asyncio
import heapq
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from replication.streams import PRESENCE
from replication.streams.announcer import Announcer
from shared.cache.sizes import optional_size
from shared.core.errors import Unavailable
from shared.core.identifiers import UserId
from shared.core.presence import UserPresence, VisiblePresence
from shared.core.rows import PresenceRow
from shared.core.slots import slot_of
from shared.http.request import Requester
from shared.runtime.clock import Clock
from shared.runtime.keyed_locks import KeyedLocks
from shared.storage.engine.pool import Database
from shared.storage.rooms.memberships import get_member_profiles
from shared.storage.user_data.presence import StoredPresence, get_presence, save_presence

_MAX_BYTES = 64 << 20  # of the users present at a time in one process; further ones stay invisible
_MAX_UNSAVED_BYTES = 32 << 20  # of changes that are not saved; further ones are not, while the database is away
#: Measured with tracemalloc: a user with their places in the dictionary and the heap, without devices and texts.
_USER_BYTES = 600
_DEVICE_BYTES = 270
_UNSAVED_BYTES = 210  # without the texts, which the user has too
_EXPIRE_EVERY_S = 1.0  # how late a state that lapses (idle, offline) is announced
_EXPIRE_BATCH = 500  # users, some 10 us each; then other tasks run
_SAVE_EVERY_S = 5.0
_SAVE_BATCH = 1000


class UserSlots(Protocol):
    """The part of the slot table used here."""

    def owns(self, kind: str, slot: int) -> bool: ...
    def on_change(self, listener: Callable[[str, set[int]], None]) -> None: ...


@dataclass(slots=True)
class _Kept:
    profile: Mapping[str, str]  # displayname and avatar_url, as far as they are set
    presence: UserPresence = field(default_factory=UserPresence)
    announced: VisiblePresence | None = None  # the last announced state
    announced_profile: Mapping[str, str] | None = None
    due_ms: int | None = None  # the time of the next check: the user's earliest entry in the heap
    size_bytes: int = 0  # as it was counted last


class PresentUsers:
    def __init__(self, database: Database, announcer: Announcer, slots: UserSlots, clock: Clock) -> None:
        self._database = database
        self._announcer = announcer
        self._slots = slots
        self._clock = clock
        self._users: dict[UserId, _Kept] = {}
        self._due: list[tuple[int, UserId]] = []
        self._unsaved: dict[UserId, StoredPresence] = {}
        #: The sums of the sizes of both.
        self.size_bytes = 0
        self.unsaved_bytes = 0
        self._profile_locks = KeyedLocks()
        announcer.set_values(PRESENCE, self._all_rows)
        slots.on_change(self._slots_changed)

    def owns(self, user_id: UserId) -> bool:
        return self._slots.owns("users", slot_of(user_id))

    def __contains__(self, user_id: UserId) -> bool:
        return user_id in self._users

    def get(self, user_id: UserId) -> UserPresence | None:
        """Return the presence of a user who is present, or was a short time ago."""
        kept = self._users.get(user_id)
        return None if kept is None else kept.presence

    async def load(self, user_ids: Collection[UserId]) -> None:
        """Load these users into memory, up to its limit. Raises Unavailable."""
        missing = [user_id for user_id in user_ids if user_id not in self._users]
        if not missing:
            return
        saved = await get_presence(self._database, missing)
        profiles = await get_member_profiles(self._database, missing)
        for user_id in missing:
            if user_id in self._users or self.size_bytes >= _MAX_BYTES:
                continue
            kept = self._users[user_id] = _Kept(profiles.get(user_id, {}))
            if (last := saved.get(user_id)) is not None:
                kept.presence.status_msg, kept.presence.last_active_ms = last.status_msg, last.last_active_ms
            self._count(user_id, kept)

    def announce_changes(self, user_ids: Iterable[UserId]) -> None:
        """Announce the presence of those users for whom it differs from the last announcement."""
        now_ms = self._clock.now_ms()
        rows = [row for user_id in user_ids if (row := self._updated(user_id, now_ms)) is not None]
        self._announcer.announce(PRESENCE, rows)

    async def profile_changed(self, user_id: UserId) -> None:
        """Announce a user with their stored profile, also if they are offline. Raises Unavailable.

        Spec: client-server API, "Events on Change of Profile Information".
        """
        async with self._profile_locks.hold(user_id):  # so that an older profile does not come last
            await self.load([user_id])
            profiles = await get_member_profiles(self._database, [user_id])
            if (kept := self._users.get(user_id)) is not None:
                kept.profile = profiles.get(user_id, {})
                self.announce_changes([user_id])

    def note_activity(self, user: Requester) -> None:
        """Record that a user did something, such as typing or reading."""
        presence = self.get(user.user_id)
        if presence is not None and presence.note_activity(user.device_id or "", self._clock.now_ms()):
            self.announce_changes([user.user_id])

    async def run(self) -> None:
        """Announce lapsed states, and save. Runs until it is cancelled."""
        save_at_s = 0.0
        while True:
            await asyncio.sleep(_EXPIRE_EVERY_S)
            while due := self._take_due():
                self.announce_changes(due)
                await asyncio.sleep(0)
            if self._clock.monotonic_s() >= save_at_s:
                await self.save()
                save_at_s = self._clock.monotonic_s() + _SAVE_EVERY_S

    def _take_due(self) -> list[UserId]:
        """Return a batch of users whose presence is due for a check."""
        now_ms = self._clock.now_ms()
        due: list[UserId] = []
        while self._due and self._due[0][0] <= now_ms and len(due) < _EXPIRE_BATCH:
            at_ms, user_id = heapq.heappop(self._due)
            kept = self._users.get(user_id)
            if kept is not None and kept.due_ms == at_ms:
                kept.due_ms = None
                due.append(user_id)
        return due

    async def save(self) -> None:
        """Save the changes since the last time. During an outage of the database they are kept for later."""
        try:
            while self._unsaved:
                batch = list(self._unsaved.values())[:_SAVE_BATCH]
                await save_presence(self._database, batch)
                for saved in batch:
                    self._forget_unsaved(saved)
        except Unavailable:
            return

    async def save_now(self, user_id: UserId) -> None:
        """Save the changes of one user. Raises Unavailable; they are then saved later."""
        unsaved = self._unsaved.get(user_id)
        if unsaved is not None:
            await save_presence(self._database, [unsaved])
            self._forget_unsaved(unsaved)

    def _updated(self, user_id: UserId, now_ms: int) -> PresenceRow | None:
        """Return the row to announce; None if the presence is as announced. Schedules the next check."""
        kept = self._users.get(user_id)
        if kept is None:
            return None
        kept.presence.forget_lapsed(now_ms)
        visible, before = kept.presence.visible(now_ms), kept.announced
        profile_before = kept.announced_profile
        kept.announced, kept.announced_profile = visible, kept.profile
        next_ms = kept.presence.next_change_ms(now_ms)
        if next_ms is None:
            self._forget(user_id)
        else:
            self._count(user_id, kept)
            if kept.due_ms is None or next_ms < kept.due_ms:
                kept.due_ms = next_ms
                heapq.heappush(self._due, (next_ms, user_id))
        if visible.same_except_last_active(before) and kept.profile == profile_before:
            return None
        self._note_unsaved(StoredPresence(user_id, visible.state, visible.status_msg, visible.last_active_ms, now_ms))
        return self._row(user_id, visible, kept.profile)

    def _slots_changed(self, kind: str, now: set[int]) -> None:
        if kind == "users":
            for user_id in [user_id for user_id in self._users if slot_of(user_id) not in now]:
                self._forget(user_id)

    def _count(self, user_id: UserId, kept: _Kept) -> None:
        texts = optional_size(user_id, kept.presence.status_msg, *kept.profile.values())
        before_bytes, kept.size_bytes = kept.size_bytes, _USER_BYTES + _DEVICE_BYTES * kept.presence.devices + texts
        self.size_bytes += kept.size_bytes - before_bytes

    def _forget(self, user_id: UserId) -> None:
        self.size_bytes -= self._users.pop(user_id).size_bytes

    def _note_unsaved(self, changed: StoredPresence) -> None:
        if changed.user_id not in self._unsaved:
            if self.unsaved_bytes >= _MAX_UNSAVED_BYTES:
                return
            self.unsaved_bytes += _UNSAVED_BYTES
        self._unsaved[changed.user_id] = changed

    def _forget_unsaved(self, saved: StoredPresence) -> None:
        if self._unsaved.get(saved.user_id) is saved:
            del self._unsaved[saved.user_id]
            self.unsaved_bytes -= _UNSAVED_BYTES

    def _all_rows(self) -> list[PresenceRow]:
        return [
            self._row(user_id, kept.announced, kept.profile)
            for user_id, kept in self._users.items()
            if kept.announced is not None
        ]

    def _row(self, user_id: UserId, visible: VisiblePresence, profile: Mapping[str, str]) -> PresenceRow:
        return PresenceRow(
            position=self._announcer.next_ephemeral_position(PRESENCE),
            writer=self._announcer.lease,
            user_id=user_id,
            state=visible.state,
            last_active_ms=visible.last_active_ms,
            currently_active=visible.currently_active,
            status_msg=visible.status_msg,
            displayname=profile.get("displayname"),
            avatar_url=profile.get("avatar_url"),
        )
