"""Put a user's new name or picture into their member event of a room. client_api calls this room by room.

Spec: client-server API, "Profiles", "Events on Change of Profile Information".
"""

from replication.calls.rooms import SET_MEMBER_PROFILE, MemberProfileAnswer, MemberProfileChange
from shared.core.errors import not_found
from shared.core.identifiers import EventId, RoomId
from shared.core.rows import NO_DEVICE
from shared.storage.engine.pool import Database
from shared.storage.rooms.memberships import get_member_profiles
from workers.event_persister.members.member_changes import MEMBER, member_draft, same_json
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room_writer import RoomWriter

#: Keys of a member event that belong to one occasion. They are not repeated when the profile changes.
_OF_THE_OCCASION = ("reason", "join_authorised_via_users_server", "third_party_invite")


class MemberProfileHandler:
    def __init__(self, writer: RoomWriter, database: Database) -> None:
        self._writer = writer
        self._database = database

    @SET_MEMBER_PROFILE.handler
    async def set_member_profile(self, room_id: RoomId, change: MemberProfileChange) -> MemberProfileAnswer:
        """Send the user's membership with their stored profile. The other keys of the membership stay.

        No event is sent for a user who is not joined, or whose membership shows the profile already.
        Raises M_NOT_FOUND for an unknown room.
        """
        user_id = change.user_id

        async def show(room: LiveRoom) -> EventId | None:
            profile = (await get_member_profiles(self._database, [user_id])).get(user_id, {})
            entry = room.state.entry(MEMBER, user_id)
            if entry is None or entry.membership != "join":
                return None
            present = (await self._writer.state_event(room, entry)).content
            if same_json({key: present[key] for key in ("displayname", "avatar_url") if key in present}, profile):
                return None
            dropped = ("displayname", "avatar_url", *_OF_THE_OCCASION)
            kept = {key: value for key, value in present.items() if key not in dropped}
            draft = member_draft(user_id, user_id, "join", {**kept, **profile}, device=NO_DEVICE)
            return (await self._writer.write(room, [draft]))[-1]

        absent = not_found("This room is not known here")
        return MemberProfileAnswer(await self._writer.in_room(room_id, show, absent=absent))
