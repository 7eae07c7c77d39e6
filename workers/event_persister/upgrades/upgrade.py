"""POST /rooms/{roomId}/upgrade: replace a room by a new one of another version.

There are two steps, and each can be repeated. First the owner of the new room's slot makes the whole new room
(`successor.py`). Then the owner of the old room moves its names and sends the tombstone. A row that is written first
says which room the new one is (`shared/storage/rooms/upgrades.py`). If a process dies, a client's next request or a
background job continues.
Spec: client-server API, "Room Upgrades".
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from replication.calls.owner_calls import OwnerCalls
from replication.calls.rooms import COMPLETE_SUCCESSOR, RESUME_UPGRADE
from shared.core.errors import AuthRuleViolation, MatrixError, RemoteServerError, Unavailable, forbidden, not_found
from shared.core.events import Event, event_from_storage
from shared.core.identifiers import RoomId, UserId
from shared.core.room_versions import RoomVersion, get_room_version
from shared.http.endpoint import RateLimit, RoutingKey
from shared.http.internal_calls import EMPTY, Empty
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.runtime import fault_points
from shared.runtime.clock import Clock
from shared.storage.engine.fenced import FencedWrite
from shared.storage.engine.pool import Database
from shared.storage.rooms.upgrades import (
    RoomUpgrade,
    begin_upgrade,
    drop_upgrade,
    end_upgrade,
    get_local_aliases,
    get_room_upgrade,
    move_names,
)
from workers.event_persister.creation.create_event import build_create_event, check_additional_creators, new_room_id
from workers.event_persister.members.member_changes import MemberChanges
from workers.event_persister.room.event_builder import Identity
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room_writer import RoomWriter
from workers.event_persister.upgrades import carried_state
from workers.event_persister.upgrades.runs import UpgradeRuns


class UpgradeBody(msgspec.Struct):
    new_version: str
    additional_creators: Any = None


class Upgrades:
    def __init__(
        self,
        *,
        writer: RoomWriter,
        changes: MemberChanges,
        calls: OwnerCalls,
        runs: UpgradeRuns,
        identity: Identity,
        database: Database,
        write: FencedWrite,
        clock: Clock,
    ) -> None:
        self._writer = writer
        self._changes = changes
        self._calls = calls
        self._runs = runs
        self._identity = identity
        self._database = database
        self._write = write
        self._clock = clock

    @endpoint(
        name="upgrade_room",
        method="POST",
        path="/_matrix/client/{version}/rooms/{roomId}/upgrade",
        pool="rooms",
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.ROOM_CREATION,
        spec="client-server-api/#post_matrixclientv3roomsroomidupgrade",
    )
    async def upgrade_room(self, request: Request) -> Response:
        """POST /rooms/{roomId}/upgrade. Raises M_UNSUPPORTED_ROOM_VERSION, M_FORBIDDEN, M_INVALID_PARAM.

        The same request again gets the same room, as long as the tombstone names it.
        """
        body, user_id = request.decode(UpgradeBody), request.user.user_id
        version = get_room_version(body.new_version)
        creators: list[UserId] = []
        if version.additional_creators and body.additional_creators is not None:
            creators = check_additional_creators(body.additional_creators)

        async def begin(room: LiveRoom) -> RoomUpgrade:
            return await self._begin(room, user_id, version, creators)

        absent = not_found("There is no such room")
        upgrade = await self._writer.in_room(request.params["roomId"], begin, absent=absent)
        await self._runs.run(upgrade.old_room_id, lambda: self._carry_out(upgrade.old_room_id))
        return json_response({"replacement_room": upgrade.new_room_id})

    @RESUME_UPGRADE.handler
    async def resume_upgrade(self, room_id: RoomId, _: Empty) -> Empty:
        """Continue an upgrade that is under way, for a background worker."""
        await self._runs.run(room_id, lambda: self._carry_out(room_id))
        return EMPTY

    async def _begin(
        self, room: LiveRoom, user_id: UserId, version: RoomVersion, creators: list[UserId]
    ) -> RoomUpgrade:
        """Return the upgrade that is under way, was asked for before, or is begun now."""
        self._check_may_upgrade(room, user_id)
        await room.finish_writes()  # events that clients have ids of belong into the new room
        known = await get_room_upgrade(self._database, room.room_id)
        if known is not None and not known.ended:
            return _joined(known, version)
        if known is not None and _asks_for(known, user_id, version, creators):
            tombstone = await self._content(room, carried_state.TOMBSTONE)
            if tombstone.get("replacement_room") == known.new_room_id:
                return known
        room_id = new_room_id(version, self._identity.server_name)
        ahead: Event | None = None
        last_event_id = room.state.head.extremities[-1][1]
        if room_id is not None:
            ahead = await self._writer.build_ahead(room, carried_state.tombstone_draft(user_id, room_id))
            last_event_id = ahead.event_id
        content = carried_state.create_content(version, room.create, last_event_id, user_id, creators)
        create = build_create_event(self._identity, version, room_id, user_id, content, self._clock.now_ms())
        upgrade = RoomUpgrade(
            old_room_id=room.room_id,
            new_room_id=create.room_id,
            new_version=version.name,
            upgrader=user_id,
            create_event_id=create.event_id,
            create_event=create.encoded,
            tombstone_event_id=None if ahead is None else ahead.event_id,
            tombstone=None if ahead is None else ahead.encoded,
            ended=False,
        )
        if await begin_upgrade(self._write, upgrade):
            return upgrade
        return _joined(await get_room_upgrade(self._database, room.room_id), version)  # another request was faster

    async def _carry_out(self, room_id: RoomId) -> None:
        """Do the rest of the room's upgrade. An upgrade that turns out impossible is dropped, and its error raised."""
        upgrade = await get_room_upgrade(self._database, room_id)
        if upgrade is None or upgrade.ended:
            return
        fault_points.reach("upgrade noted")
        try:
            await self._writer.in_room(room_id, lambda room: self._replace(room, upgrade))
        except AuthRuleViolation as violation:
            await drop_upgrade(self._write, upgrade)
            raise forbidden(violation.message) from None
        except MatrixError as error:
            if error.status < 500:
                await drop_upgrade(self._write, upgrade)
            raise
        fault_points.reach("room closed")
        await end_upgrade(self._write, upgrade)

    async def _replace(self, room: LiveRoom, upgrade: RoomUpgrade) -> None:
        """Complete the new room, and close the old one. Parts that are done already stay as they are."""
        upgrader = upgrade.upgrader
        tombstone = await self._content(room, carried_state.TOMBSTONE)
        is_closed = tombstone.get("replacement_room") == upgrade.new_room_id
        if is_closed and room.state.membership(upgrader) != "join":
            return  # the upgrader sent the tombstone and left, so the rest cannot be done
        if not is_closed:
            self._check_may_upgrade(room, upgrader)
            await self._complete_successor(upgrade.new_room_id)
            self._check_may_upgrade(room, upgrader)
        await move_names(self._write, upgrade.old_room_id, upgrade.new_room_id)
        fault_points.reach("names moved")
        moved = await get_local_aliases(self._database, upgrade.new_room_id)
        levels = await self._content(room, carried_state.POWER_LEVELS)
        named = await self._content(room, carried_state.CANONICAL_ALIAS)
        drafts = carried_state.closing_drafts(upgrader, room.state.power_levels, levels, named, moved)
        if not is_closed:
            closing = carried_state.tombstone_draft(upgrader, upgrade.new_room_id)
            if upgrade.tombstone is None or upgrade.tombstone_event_id is None:
                drafts.insert(0, closing)
            else:
                built = event_from_storage(room.version, upgrade.tombstone, upgrade.tombstone_event_id)
                await self._writer.write_built(room, built, closing)
        if drafts:
            await self._writer.write(room, drafts)

    async def _complete_successor(self, new_room_id: RoomId) -> None:
        try:
            answer = await self._calls.ask(COMPLETE_SUCCESSOR, new_room_id, EMPTY)
        except RemoteServerError as error:
            raise Unavailable("The new room is not complete yet") from error
        if answer.refused is not None:
            raise MatrixError("M_INVALID_ROOM_STATE", f"The new room cannot be created: {answer.refused}", 400)

    def _check_may_upgrade(self, room: LiveRoom, user_id: UserId) -> None:
        """Raise M_FORBIDDEN unless the user may send the tombstone, as the spec has it."""
        self._changes.check_member(room, user_id)
        levels = room.state.power_levels
        if levels.user_level(user_id) < levels.event_level(carried_state.TOMBSTONE, is_state=True):
            raise forbidden("Your power level is too low to upgrade this room")

    async def _content(self, room: LiveRoom, kind: str) -> Mapping[str, Any]:
        """Return the content of a state event with an empty key, empty if there is none."""
        entry = room.state.entry(kind)
        return {} if entry is None else (await self._writer.state_event(room, entry)).content


def _joined(known: RoomUpgrade | None, version: RoomVersion) -> RoomUpgrade:
    """Return the upgrade that is under way if it is to this version. Raises M_FORBIDDEN, Unavailable."""
    if known is None:
        raise Unavailable("An upgrade of this room has just failed. Try again")
    if known.new_version != version.name:
        raise forbidden("This room is being upgraded to another version")
    return known


def _asks_for(known: RoomUpgrade, user_id: UserId, version: RoomVersion, creators: list[UserId]) -> bool:
    """Return True if a request is for this upgrade."""
    if (known.upgrader, known.new_version) != (user_id, version.name):
        return False
    create = event_from_storage(version, known.create_event, known.create_event_id)
    named = create.content.get("additional_creators", []) if version.additional_creators else []
    return bool(named == list(dict.fromkeys(creators)))
