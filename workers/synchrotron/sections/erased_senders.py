"""Events of erased senders in sync responses: redacted for readers who were not joined when they were sent.

Memory holds each event once, unredacted. Such readers get redacted copies. Readers who were joined throughout, as
nearly always, cost no query. `shared/rooms/erased_events.py` does the same for room reads.
"""

import asyncio
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace

from shared.core.identifiers import UserId
from shared.core.visibility import ShownForm, shown_form
from shared.rooms.state_history import history, joined_by
from shared.rooms.timeline_event import MEMBER, TimelineEvent
from shared.rooms.viewpoint import Viewpoint, value_before
from shared.runtime.clock import Clock
from shared.storage.accounts.erased_users import get_erased_since
from shared.storage.engine.pool import Source
from shared.storage.rooms.state import get_key_history
from workers.synchrotron.rooms.cached_room import CachedRoom

#: How old the list may be. An erasure concerns users who join later, and joining and syncing takes longer than this.
_FRESH_S = 0.01
_CLOCK_DIFFERENCE_MS = 60_000  # between the clocks of two processes, at most


class ErasedSenders:
    """The erased users, who are few enough to be in memory."""

    def __init__(self, reads: Source, clock: Clock) -> None:
        self._reads = reads
        self._clock = clock
        #: The time of erasure by user.
        self._erased: dict[UserId, int] = {}
        self._read_at_s: float | None = None
        self._reading: asyncio.Task[None] | None = None

    async def shown(
        self, room: CachedRoom, view: Viewpoint, events: Sequence[TimelineEvent]
    ) -> Sequence[TimelineEvent]:
        """Return events that are visible to the reader, redacted where needed."""
        since = view.joined_throughout_from
        if since is not None and all(_is_after(event, since) for event in events):
            return events
        erased = await self._current()
        if erased.keys().isdisjoint(sender for event in events for sender in _senders(event)):
            return events
        own = await get_key_history(self._reads, room.room_nid, MEMBER, view.user_id)
        memberships = history(own, "membership")

        def is_redacted(sender: UserId | None, ordinal: int, after: str | None) -> bool:
            return (
                sender in erased
                and shown_form(
                    "world_readable",  # the event is visible, by whatever rule
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
            redaction = event.redacted_because
            strip_redaction = redaction is not None and is_redacted(redaction.sender, redaction.ordinal, None)
            if not (strip or strip_previous or strip_redaction):
                return event
            copy = replace(event)
            if strip:
                copy.strip(room.version)
            if strip_previous:
                copy.strip_previous(room.version)
            if strip_redaction:
                copy.strip_redaction()
            return copy

        return [form(event) for event in events]

    async def users(self) -> Set[UserId]:
        """Return all erased users."""
        return (await self._current()).keys()

    async def is_any(self, senders: Set[UserId]) -> bool:
        """Return True if any of these users is erased."""
        return not senders.isdisjoint(await self._current())

    async def _current(self) -> dict[UserId, int]:
        now_s = self._clock.monotonic_s()
        if self._read_at_s is None or now_s - self._read_at_s > _FRESH_S:
            if self._reading is None:  # one query for all requests that an event wakes
                self._reading = asyncio.get_running_loop().create_task(self._read(now_s))
            await asyncio.shield(self._reading)
        return self._erased

    async def _read(self, now_s: float) -> None:
        try:
            last_ms = max(self._erased.values(), default=0)
            self._erased.update(await get_erased_since(self._reads, last_ms - _CLOCK_DIFFERENCE_MS))
            self._read_at_s = now_s
        finally:
            self._reading = None


def _is_after(event: TimelineEvent, ordinal: int) -> bool:
    previous, redaction = event.previous, event.redacted_because
    return (
        event.ordinal > ordinal
        and (previous is None or previous.ordinal > ordinal)
        and (redaction is None or redaction.ordinal > ordinal)
    )


def _senders(event: TimelineEvent) -> Iterator[UserId]:
    """Yield the senders of an event and of the events within it."""
    yield event.sender
    for part in (event.previous, event.redacted_because):
        if part is not None:
            yield part.sender
