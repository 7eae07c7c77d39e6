"""The profiles of users in their member events.

A change of the profile goes into the user's member event of each room: client_api calls this room by room. A join
takes the profile that is stored by then, and looks again once the event is stored. So a change that comes meanwhile is
seen by one of the two: the change's run finds the room among those that are joined, or the join finds the change.
Spec: client-server API, "Profiles", "Events on Change of Profile Information".
"""

import logging
from collections.abc import Mapping

from replication.calls.rooms import SET_MEMBER_PROFILE, MemberProfileAnswer, MemberProfileChange
from shared.core.errors import SkepError, Unavailable, not_found
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.rows import NO_DEVICE
from shared.storage.accounts.profiles import note_profile_change
from shared.storage.engine.pool import Database
from shared.storage.rooms.memberships import get_member_profiles
from workers.event_persister.members.member_draft import MEMBER, member_draft, same_json
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room_writer import RoomWriter

logger = logging.getLogger(__name__)

#: Keys of a member event that belong to one occasion. They are not repeated when the profile changes.
_OF_THE_OCCASION = ("reason", "join_authorised_via_users_server", "third_party_invite")
_ATTEMPTS = 5  # the profile may change while its event is written


class MemberProfiles:
    """Reads profiles, and keeps the member events of joined users up to date with them."""

    def __init__(self, writer: RoomWriter, database: Database) -> None:
        self._writer = writer
        self._database = database

    async def read(self, user_id: UserId) -> Mapping[str, str]:
        """Return the keys that a member event of the user gets from their profile."""
        return (await get_member_profiles(self._database, [user_id])).get(user_id, {})

    async def update(self, room: LiveRoom, user_id: UserId) -> EventId | None:
        """Send the user's membership with their stored profile. The other keys of the membership stay.

        Return the last event, or None if no event was needed: the user is not joined, or their membership shows the
        profile already.
        """
        sent: EventId | None = None
        for _ in range(_ATTEMPTS):
            profile = await self.read(user_id)
            entry = room.state.entry(MEMBER, user_id)
            if entry is None or entry.membership != "join":
                return sent
            present = (await self._writer.state_event(room, entry)).content
            if same_json({key: present[key] for key in ("displayname", "avatar_url") if key in present}, profile):
                return sent
            dropped = ("displayname", "avatar_url", *_OF_THE_OCCASION)
            kept = {key: value for key, value in present.items() if key not in dropped}
            draft = member_draft(user_id, user_id, "join", {**kept, **profile}, device=NO_DEVICE)
            sent = (await self._writer.write(room, [draft]))[-1]
        raise Unavailable("The profile changes too quickly")

    async def follow(self, room: LiveRoom, user_id: UserId, shown: Mapping[str, str]) -> None:
        """Update the membership that was just stored if the profile has changed since `shown` was read.

        It does not fail, since the membership is stored. What it cannot do is left to the background job.
        """
        try:
            if await self.read(user_id) != shown:
                await self.update(room, user_id)
        except SkepError as error:
            logger.info("A profile that changed during a join is brought into its room later: %s", error)
            try:
                await note_profile_change(self._database, user_id)
            except Unavailable:
                logger.warning("A room may show a former profile of %s until it changes again", user_id)


class MemberProfileHandler:
    def __init__(self, writer: RoomWriter, profiles: MemberProfiles) -> None:
        self._writer = writer
        self._profiles = profiles

    @SET_MEMBER_PROFILE.handler
    async def set_member_profile(self, room_id: RoomId, change: MemberProfileChange) -> MemberProfileAnswer:
        """Send the user's membership with their stored profile. Raises M_NOT_FOUND for an unknown room."""
        absent = not_found("This room is not known here")
        event_id = await self._writer.in_room(
            room_id, lambda room: self._profiles.update(room, change.user_id), absent=absent
        )
        return MemberProfileAnswer(event_id)
