"""The job that finishes what requests began: upgrades, settings for new rooms, removals of guests, closed accounts,
profile changes.

It asks the owners of rooms and users, and repeats the calls until all is done. Several processes share the work
(`shared/storage/fleet/pending_work.py`). When one dies, another takes over what it took.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from replication.calls.owner_calls import OwnerCalls
from replication.calls.rooms import (
    LEAVE_CLOSED_ACCOUNT,
    REMOVE_GUESTS,
    RESUME_UPGRADE,
    SET_MEMBER_PROFILE,
    MemberLeaving,
    MemberProfileChange,
)
from replication.calls.users import CLEAR_ACCOUNT, COPY_ROOM_SETTINGS, ClosedAccount, RoomSettings
from shared.core.errors import RemoteServerError, Unavailable
from shared.core.identifiers import RoomId
from shared.http.internal_calls import EMPTY
from shared.metrics.background import BackgroundMetrics
from shared.storage.accounts.deactivation import finish_deactivation, get_rooms_to_leave
from shared.storage.accounts.profiles import end_profile_change
from shared.storage.engine.pool import Database
from shared.storage.fleet.pending_work import (
    Deactivation,
    ProfileChange,
    SettingsToCopy,
    claim_deactivations,
    claim_guest_removals,
    claim_profile_changes,
    claim_settings,
    claim_upgrades,
    delete_settings_to_copy,
)
from shared.storage.rooms.aliases import list_joined_rooms

logger = logging.getLogger(__name__)

_EVERY_S = 0.5
_AT_A_TIME = 20  # of each kind
_ROOMS_AT_A_TIME = 8  # of one closed account, so that it does not fill the persisters' queues
_PAGE = 200

_Claim: TypeAlias = Callable[[Database, int], Awaitable[Sequence[Any]]]
_Finish: TypeAlias = Callable[[Any], Coroutine[Any, Any, object]]


class PendingWork:
    def __init__(self, database: Database, calls: OwnerCalls, metrics: BackgroundMetrics) -> None:
        self._database = database
        self._calls = calls
        self._metrics = metrics

    def jobs(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return a job for each kind of work, by name: a kind that is slow, or fails, holds up no other."""
        return {
            f"pending work: {kind}": functools.partial(self._run, claim, finish)
            for kind, (claim, finish) in self._kinds().items()
        }

    async def once(self) -> int:
        """Do a batch of all kinds of pending work. Return the number of finished pieces."""
        tasks: list[Coroutine[Any, Any, object]] = []
        for claim, finish in self._kinds().values():
            tasks += [finish(piece) for piece in await claim(self._database, _AT_A_TIME)]
        return await self._all_of(tasks)

    def _kinds(self) -> Mapping[str, tuple[_Claim, _Finish]]:
        ask = self._calls.ask
        return {
            "upgrades": (claim_upgrades, lambda room_id: ask(RESUME_UPGRADE, room_id, EMPTY)),
            "settings": (claim_settings, self._copy),
            "guests": (claim_guest_removals, lambda room_id: ask(REMOVE_GUESTS, room_id, EMPTY)),
            "closed accounts": (claim_deactivations, self._clear),
            "profiles": (claim_profile_changes, self._update_member_events),
        }

    async def _run(self, claim: _Claim, finish: _Finish) -> None:
        """Do pending work of one kind, some pieces at a time. A piece that takes long holds up no other."""
        under_way: dict[Any, asyncio.Task[int]] = {}
        try:
            while True:
                free = _AT_A_TIME - len(under_way)
                pieces = await claim(self._database, free) if free else ()
                for piece in pieces:
                    if piece in under_way:
                        continue  # it takes longer than the time to the next look
                    task = asyncio.get_running_loop().create_task(self._all_of([finish(piece)]))
                    under_way[piece] = task
                    task.add_done_callback(lambda _, piece=piece: under_way.pop(piece, None))  # type: ignore[misc]
                await asyncio.sleep(0 if free and len(pieces) == free else _EVERY_S)
        finally:
            for task in under_way.values():
                task.cancel()

    async def _copy(self, settings: SettingsToCopy) -> None:
        """Copy the settings when the user has joined and the old room names the new one; give up after ten minutes.

        Clients that upgrade a room by themselves make the new room first and send the tombstone afterwards.
        """
        copied = False
        if settings.has_joined:
            rooms = RoomSettings(settings.old_room_id, settings.new_room_id)
            copied = (await self._calls.ask(COPY_ROOM_SETTINGS, settings.user_id, rooms)).copied
        if copied or settings.is_old:
            await delete_settings_to_copy(self._database, settings.user_id, settings.new_room_id)

    async def _clear(self, account: Deactivation) -> None:
        """Finish closing an account: first its own data, then its rooms."""
        await self._calls.ask(CLEAR_ACCOUNT, account.user_id, ClosedAccount(account.erase))
        leaving, turns = MemberLeaving(account.user_id), asyncio.Semaphore(_ROOMS_AT_A_TIME)

        async def leave(room_id: RoomId) -> None:
            async with turns:
                await self._calls.ask(LEAVE_CLOSED_ACCOUNT, room_id, leaving)

        while room_ids := await get_rooms_to_leave(self._database, account.user_id, _PAGE):
            if await self._all_of([leave(room_id) for room_id in room_ids]) < len(room_ids):
                raise Unavailable("Some rooms could not be left yet")
        await finish_deactivation(self._database, account.user_id)

    async def _update_member_events(self, change: ProfileChange) -> None:
        """Finish a profile change whose process died, or could not reach all of the user's rooms."""
        user_id, turns = change.user_id, asyncio.Semaphore(_ROOMS_AT_A_TIME)
        room_ids = await list_joined_rooms(self._database, user_id)

        async def update(room_id: RoomId) -> None:
            async with turns:
                await self._calls.ask(SET_MEMBER_PROFILE, room_id, MemberProfileChange(user_id))

        if await self._all_of([update(room_id) for room_id in room_ids]) < len(room_ids) and not change.is_old:
            raise Unavailable("Some rooms do not have a profile change yet")
        await end_profile_change(self._database, user_id, change.number)

    async def _all_of(self, tasks: Iterable[Coroutine[Any, Any, object]]) -> int:
        """Run all at once. Return the number of successes. Failed work is tried again later, ever more rarely."""
        done = 0
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Unavailable | RemoteServerError):
                logger.warning("Pending work could not be finished yet: %s", outcome)
            elif isinstance(outcome, Exception):
                # A bug that one piece of work meets. The others go on, and the alert about overdue work names it.
                logger.error("A piece of pending work failed", exc_info=outcome)
                self._metrics.failures.labels("pending work").inc()
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                done += 1
        return done
