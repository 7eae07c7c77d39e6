"""Events of erased senders in /sync, as readers who were not there get them.

`shared/rooms/erased_events.py` does the same for what is read once.


Memory holds each event once, whole, for everybody: here a reader gets copies, where he must. Who was joined when all of
it was sent, as with every new event, costs nothing and asks nobody.
"""

import asyncio
from collections.abc import Sequence, Set
from dataclasses import replace

from shared.core.visibility import ShownForm, shown_form
from shared.rooms.state_history import history, joined_by
from shared.rooms.timeline_event import MEMBER, TimelineEvent
from shared.rooms.viewpoint import Viewpoint, value_before
from shared.runtime.clock import Clock
from shared.storage.accounts.erased_users import get_erased_since
from shared.storage.engine.pool import Source
from shared.storage.rooms.state import get_key_history
from workers.synchrotron.rooms.cached_room import CachedRoom

#: An erasure holds for whoever joins later: nobody joins and syncs in less time.
_FRESH_S = 0.01
_CLOCKS_MS = 60_000  # by how much the clocks of two processes may differ


class ErasedForms:
    """Remembers who was erased: there are few. reads: counted."""

    def __init__(self, reads: Source, clock: Clock) -> None:
        self._reads = reads
        self._clock = clock
        self._erased: dict[str, int] = {}
        self._read_at_s: float | None = None
        self._reading: asyncio.Task[None] | None = None

    async def shown(
        self, room: CachedRoom, view: Viewpoint, events: Sequence[TimelineEvent]
    ) -> Sequence[TimelineEvent]:
        """Return the events, all of them visible to the reader, in the form in which he may see each."""
        since = view.joined_throughout_from
        if since is not None and all(_is_after(event, since) for event in events):
            return events
        erased = await self._now()
        if not any(event.sender in erased or _previous_sender(event) in erased for event in events):
            return events
        own = await get_key_history(self._reads, room.room_nid, MEMBER, view.user_id)
        memberships = history(own, "membership")

        def is_redacted(sender: str | None, ordinal: int, after: str | None) -> bool:
            return (
                sender in erased
                and shown_form(
                    "world_readable",  # visible to him, by whichever rule
                    value_before(memberships, ordinal),
                    False,
                    sender_erased=True,
                    joined_before_erasure=joined_by(room.version, own, ordinal, erased[sender]),
                    membership_after=after,
                )
                is ShownForm.REDACTED
            )

        def form(event: TimelineEvent) -> TimelineEvent:
            is_own = event.type == MEMBER and event.state_key == view.user_id
            strip = is_redacted(event.sender, event.ordinal, event.membership if is_own else None)
            previous = event.previous
            strip_previous = previous is not None and is_redacted(previous.sender, previous.ordinal, None)
            if not strip and not strip_previous:
                return event
            copy = replace(event)
            if strip:
                copy.strip(room.version)
            if strip_previous:
                copy.strip_previous(room.version)
            return copy

        return [form(event) for event in events]

    async def is_any(self, senders: Set[str]) -> bool:
        """Return whether any of these users was erased."""
        return not senders.isdisjoint(await self._now())

    async def _now(self) -> dict[str, int]:
        now_s = self._clock.monotonic_s()
        if self._read_at_s is None or now_s - self._read_at_s > _FRESH_S:
            if self._reading is None:  # else many who are woken by one event read once
                self._reading = asyncio.get_running_loop().create_task(self._read(now_s))
            await asyncio.shield(self._reading)
        return self._erased

    async def _read(self, now_s: float) -> None:
        try:
            last_ms = max(self._erased.values(), default=0)
            self._erased.update(await get_erased_since(self._reads, last_ms - _CLOCKS_MS))
            self._read_at_s = now_s
        finally:
            self._reading = None


def _is_after(event: TimelineEvent, ordinal: int) -> bool:
    return event.ordinal > ordinal and (event.previous is None or event.previous.ordinal > ordinal)


def _previous_sender(event: TimelineEvent) -> str | None:
    return None if event.previous is None else event.previous.sender
