"""Make, fill and finish the new room of an upgrade, at the owner of its slot.

The room itself shows what is done already, so this can be repeated at any point. The room begins with one statement.
The upgrader may need more power for copying than they keep afterwards. So the final power levels are set last, and the
room is complete with them.
"""

from collections.abc import Mapping, Sequence
from itertools import islice

from replication.calls.rooms import COMPLETE_SUCCESSOR, SuccessorAnswer
from shared.core.errors import AuthRuleViolation, MatrixError, Unavailable
from shared.core.events import Event, event_from_storage
from shared.core.events.readers import power_levels_of
from shared.core.events.readers.create import creators_of
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_versions import get_room_version
from shared.http.internal_calls import Empty
from shared.storage.engine.number_blocks import NumberBlock
from shared.storage.engine.pool import Database
from shared.storage.rooms.upgrades import (
    RoomUpgrade,
    StateContent,
    get_bans,
    get_create_event,
    get_local_aliases,
    get_state_contents,
    get_upgrade_into,
)
from workers.event_persister.members.member_draft import MEMBER, same_json
from workers.event_persister.members.member_profile import MemberProfiles
from workers.event_persister.room.drafts import Draft, NewRoom
from workers.event_persister.room.event_builder import Identity
from workers.event_persister.room.event_forms import stub
from workers.event_persister.room.live_room import LiveRoom, new_live_room
from workers.event_persister.room_writer import RoomWriter
from workers.event_persister.upgrades import carried_state
from workers.event_persister.upgrades.runs import UpgradeRuns

_AT_A_TIME = 100  # events of one write, so that others get their turn in between
_MAX_KEYED = 5000  # of a space's rooms
_MAX_BANS = 20_000


class UpgradeSuccessor:
    """copies_bans: True if users who are banned from the old room are banned from the new one too.

    room_numbers: of the sequence `room_nids`.
    """

    def __init__(
        self,
        *,
        writer: RoomWriter,
        profiles: MemberProfiles,
        identity: Identity,
        room_numbers: NumberBlock,
        database: Database,
        runs: UpgradeRuns,
        copies_bans: bool,
    ) -> None:
        self._writer = writer
        self._profiles = profiles
        self._identity = identity
        self._room_numbers = room_numbers
        self._database = database
        self._runs = runs
        self._copies_bans = copies_bans

    @COMPLETE_SUCCESSOR.handler
    async def complete_successor(self, room_id: RoomId, _: Empty) -> SuccessorAnswer:
        """Complete the new room of an upgrade. Nothing happens for any other room."""
        return await self._runs.run(room_id, lambda: self._complete(room_id))

    async def _complete(self, room_id: RoomId) -> SuccessorAnswer:
        upgrade = await get_upgrade_into(self._database, room_id)
        if upgrade is None or upgrade.ended:
            return SuccessorAnswer()
        try:
            await self._fill(upgrade)
        except AuthRuleViolation as violation:
            return SuccessorAnswer(violation.message)
        except MatrixError as error:
            if error.status >= 500:
                raise
            return SuccessorAnswer(error.message)
        return SuccessorAnswer()

    async def _fill(self, upgrade: RoomUpgrade) -> None:
        version = get_room_version(upgrade.new_version)
        create = event_from_storage(version, upgrade.create_event, upgrade.create_event_id)
        types = (carried_state.POWER_LEVELS, carried_state.CANONICAL_ALIAS, *carried_state.SINGLE_TYPES)
        state = await get_state_contents(self._database, upgrade.old_room_id, types, len(types) * 2)
        levels = await self._final_levels(upgrade, create, state)
        if await self._writer.find(upgrade.new_room_id) is None:
            await self._begin(upgrade, create, state, levels)
        keyed = await get_state_contents(self._database, upgrade.old_room_id, carried_state.KEYED_TYPES, _MAX_KEYED)
        drafts = carried_state.keyed_drafts(upgrade.upgrader, keyed)
        if self._copies_bans:
            bans = await get_bans(self._database, upgrade.old_room_id, _MAX_BANS)
            settled = power_levels_of(version, create, _levels_event(create, levels))
            drafts += carried_state.ban_drafts(upgrade.upgrader, bans, settled)
        await self._write_missing(upgrade.new_room_id, drafts)
        await self._writer.in_room(upgrade.new_room_id, lambda room: self._settle(room, upgrade.upgrader, levels))

    async def _begin(
        self, upgrade: RoomUpgrade, create: Event, state: Sequence[StateContent], levels: dict[str, object]
    ) -> None:
        version, upgrader = get_room_version(upgrade.new_version), upgrade.upgrader
        profile = await self._profiles.read(upgrader)
        aliases = await get_local_aliases(self._database, upgrade.old_room_id)
        first = carried_state.first_levels(version, levels, upgrader)
        drafts = carried_state.first_drafts(version, upgrader, profile, first, state, aliases)
        await self._room_numbers.reserve(1)
        room_nid = self._room_numbers.take()
        create_nid = await self._writer.take_event_number()
        room = new_live_room(self._identity, version, room_nid, create)
        new_room = NewRoom(creator=upgrader, is_public=False, created_ms=create.origin_server_ts, alias=None)
        await self._writer.write_new_room(room, create_nid, drafts, new_room)
        await self._profiles.follow(room, upgrader, profile)

    async def _write_missing(self, room_id: RoomId, drafts: Sequence[Draft]) -> None:
        """Write the drafts that the room lacks, a part at a time."""

        async def write(room: LiveRoom) -> bool:
            missing = list(islice((draft for draft in drafts if _lacks(room, draft)), _AT_A_TIME))
            if missing:
                await self._writer.write(room, missing)
            return bool(missing)

        while await self._writer.in_room(room_id, write):
            pass

    async def _settle(self, room: LiveRoom, upgrader: UserId, levels: dict[str, object]) -> None:
        """Give the room its final power levels."""
        entry = room.state.entry(carried_state.POWER_LEVELS)
        assert entry is not None
        present = await self._writer.state_event(room, entry)
        if same_json(present.content, levels):
            await self._writer.settled(room, entry)
        else:
            await self._writer.write(
                room, [Draft(sender=upgrader, type=carried_state.POWER_LEVELS, state_key="", content=levels)]
            )

    async def _final_levels(
        self, upgrade: RoomUpgrade, create: Event, state: Sequence[StateContent]
    ) -> dict[str, object]:
        found = await get_create_event(self._database, upgrade.old_room_id)
        if found is None:
            raise Unavailable("The old room cannot be read")
        old_version = get_room_version(found[0])
        old_create = event_from_storage(old_version, found[2], found[1])
        content = next((each.content for each in state if each.type == carried_state.POWER_LEVELS), None)
        old = power_levels_of(old_version, old_create, None if content is None else _levels_event(old_create, content))
        version = get_room_version(upgrade.new_version)
        creators = creators_of(version, create) if version.creators_outrank_all else ()
        return carried_state.final_levels(version, old, content or {}, creators, upgrade.upgrader)


def _levels_event(create: Event, content: Mapping[str, object]) -> Event:
    """Return these power levels as an event that the rules can read."""
    return stub(create.room_id, EventId("$levels"), create.sender, carried_state.POWER_LEVELS, content)


def _lacks(room: LiveRoom, draft: Draft) -> bool:
    assert draft.state_key is not None
    entry = room.state.entry(draft.type, draft.state_key)
    if entry is None:
        return True
    # A user may have joined, or been invited, before the ban was copied. Users who left stay unbanned then.
    return draft.type == MEMBER and entry.membership in ("join", "invite", "knock")
