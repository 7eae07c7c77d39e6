"""Changes of membership: their events, and checks beyond the room's own rules.

The authorization rules (who may kick, join ...) are in the pure core: an event that breaks one is refused when it is
built. This module has what they do not cover: profiles, guests, users who block invites, and restricted rooms.
Spec: client-server API, "Room membership", "Guest Access", "Invite permission", "Restricted rooms".
"""

from collections.abc import Mapping
from typing import Any

from shared.core.errors import MatrixError, RemoteServerError, bad_json, forbidden
from shared.core.events import Event
from shared.core.events.readers import allowed_rooms, join_rule_of
from shared.core.events.readers.create import predecessor_of
from shared.core.identifiers import UserId, check_user_id, server_of
from shared.http.request import Requester
from shared.storage.engine.pool import Database
from shared.storage.rooms.memberships import get_users_blocking_invites, is_joined_to_any
from shared.storage.rooms.upgrades import remember_settings
from workers.event_persister.members.member_draft import MEMBER, member_draft
from workers.event_persister.members.member_profile import MemberProfiles
from workers.event_persister.room.drafts import Draft
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room.room_state import GUEST_ACCESS, JOIN_RULES
from workers.event_persister.room_writer import RoomWriter

AUTHORISED_VIA = "join_authorised_via_users_server"
_MEMBERSHIPS = ("join", "invite", "leave", "ban", "knock")


class MemberChanges:
    """server_name: ours. Users of other servers cannot be reached yet."""

    def __init__(self, writer: RoomWriter, profiles: MemberProfiles, database: Database, server_name: str) -> None:
        self._writer = writer
        self._profiles = profiles
        self._database = database
        self._server_name = server_name

    async def join(
        self,
        room: LiveRoom,
        requester: Requester,
        *,
        reason: str | None,
        signed: Mapping[str, Any] | None,
        further: Mapping[str, Any],
    ) -> None:
        """Let the requester join. Nothing changes if they are joined already.

        further: more keys for the member event.
        signed: `third_party_signed` of the request, the proof that an invite to an e-mail address is theirs.
        Raises M_FORBIDDEN, M_GUEST_ACCESS_FORBIDDEN.
        """
        user_id = requester.user_id
        if await self._is_already(room, user_id, "join"):
            return
        self.check_guest(room, requester)
        drafts = [] if signed is None else [await self._third_party_invite(room, user_id, signed)]
        profile = await self._profiles.read(user_id)
        content = {
            **profile,
            **further,
            "reason": reason,
            # The signed invite above is as good as an invite: no authorising user is needed.
            **(await self._authorisation(room, user_id) if signed is None else {}),
        }
        await self.expect_settings(room.create, user_id)
        drafts.append(member_draft(user_id, user_id, "join", content))
        await self._writer.write(room, drafts)
        await self._profiles.follow(room, user_id, profile)

    async def knock(self, room: LiveRoom, requester: Requester, reason: str | None) -> None:
        """Knock. Raises M_FORBIDDEN if the room allows no knocks, or the user is joined, invited or banned."""
        user_id = requester.user_id
        if not room.version.knocking:
            raise forbidden("This room's version has no knocking")
        profile = await self._profiles.read(user_id)
        if await self._is_already(room, user_id, "knock"):
            return
        await self._writer.write(room, [member_draft(user_id, user_id, "knock", {**profile, "reason": reason})])

    async def leave(self, room: LiveRoom, user_id: UserId, reason: str | None) -> None:
        """Leave, reject an invite, or take back a knock. Nothing changes for a user who has left already."""
        if await self._is_already(room, user_id, "leave"):
            return
        await self._writer.write(room, [member_draft(user_id, user_id, "leave", {"reason": reason})])

    async def invite(self, room: LiveRoom, requester: Requester, target: UserId, reason: str | None) -> None:
        """Invite a user of this server. Nothing changes for a user who is invited already.

        Raises M_FORBIDDEN, M_INVITE_BLOCKED, RemoteServerError for users of other servers.
        """
        sender = requester.user_id
        self.check_member(room, sender)
        await self.check_can_be_invited([target])
        profile = await self._profiles.read(target)
        if room.state.power_levels.user_level(sender) >= room.state.power_levels.invite and await self._is_already(
            room, target, "invite"
        ):
            return
        await self._writer.write(room, [member_draft(sender, target, "invite", {**profile, "reason": reason})])

    async def kick(self, room: LiveRoom, requester: Requester, target: UserId, reason: str | None) -> None:
        """Remove a member, or take back an invite or a knock. Raises M_FORBIDDEN."""
        self.check_member(room, requester.user_id)
        if room.state.membership(target) not in ("join", "invite", "knock"):
            raise forbidden("That user is not in this room")
        await self._writer.write(room, [member_draft(requester.user_id, target, "leave", {"reason": reason})])

    async def ban(self, room: LiveRoom, requester: Requester, target: UserId, reason: str | None) -> None:
        """Ban a user, joined or not. Raises M_FORBIDDEN."""
        await self._writer.write(room, [member_draft(requester.user_id, target, "ban", {"reason": reason})])

    async def unban(self, room: LiveRoom, requester: Requester, target: UserId, reason: str | None) -> None:
        """Lift a ban, so that the user may join or be invited again. Raises M_FORBIDDEN."""
        self.check_member(room, requester.user_id)
        if room.state.membership(target) != "ban":
            raise forbidden("That user is not banned from this room")
        await self._writer.write(room, [member_draft(requester.user_id, target, "leave", {"reason": reason})])

    async def prepare_member_state(
        self, room: LiveRoom, requester: Requester, target: UserId, content: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return the content for an m.room.member event that a client sets as state, after the checks of its kind.

        Raises M_BAD_JSON for an unknown membership, M_INVALID_PARAM for a state key that is no user id, and the errors
        of the usual way to this membership.
        """
        check_user_id(target)
        membership = content.get("membership")
        if membership not in _MEMBERSHIPS:
            raise bad_json("membership must be one of: " + ", ".join(_MEMBERSHIPS))
        # Clients send their whole member event again to change their name. Its key of the join came from a server, and
        # only a server may set it.
        content = {key: value for key, value in content.items() if key != AUTHORISED_VIA}
        if membership in ("join", "knock") and target == requester.user_id:
            if room.state.membership(target) == membership:
                return content  # a member changes how they are shown in this room
            self.check_guest(room, requester)
            authorisation = await self._authorisation(room, target) if membership == "join" else {}
            if membership == "join":
                await self.expect_settings(room.create, target)
        elif membership == "invite":
            await self.check_can_be_invited([target])
            authorisation = {}
        else:
            return content
        profile = await self._profiles.read(target)
        return {**profile, **authorisation, **content}

    async def check_can_be_invited(self, user_ids: list[UserId]) -> None:
        """Raise M_INVITE_BLOCKED (403), or RemoteServerError if a user is of another server."""
        for user_id in user_ids:
            if server_of(check_user_id(user_id)) != self._server_name:
                raise RemoteServerError("Users of other servers cannot be reached")
        if await get_users_blocking_invites(self._database, user_ids):
            raise MatrixError("M_INVITE_BLOCKED", "An invited user blocks invites", 403)

    def check_member(self, room: LiveRoom, user_id: UserId) -> None:
        """Raise M_FORBIDDEN unless the user is in the room, before an answer that could tell strangers about it."""
        if room.state.membership(user_id) != "join":
            raise forbidden("You are not in this room")

    def check_guest(self, room: LiveRoom, requester: Requester) -> None:
        """Raise M_GUEST_ACCESS_FORBIDDEN for a guest if the room does not admit guests."""
        if requester.is_guest and not guests_can_join(room):
            raise MatrixError("M_GUEST_ACCESS_FORBIDDEN", "Guests cannot join this room", 403)

    async def expect_settings(self, create: Event, user_id: UserId) -> None:
        """Note that the user's settings for the room's predecessor must follow them if they join.

        This is stored before the join: a job looks whether the join was. Spec: client-server API, "Room Upgrades".
        """
        predecessor = predecessor_of(create)
        if predecessor is not None:
            await remember_settings(self._database, user_id, predecessor, create.room_id)

    async def _is_already(self, room: LiveRoom, user_id: UserId, membership: str) -> bool:
        entry = room.state.entry(MEMBER, user_id)
        if entry is None or entry.membership != membership:
            return False
        await self._writer.settled(room, entry)
        return True

    async def _authorisation(self, room: LiveRoom, user_id: UserId) -> dict[str, str]:
        """Return the key that the join of a restricted room needs, empty if none is needed or available.

        A member of ours who may invite vouches for the join. Spec: client-server API, "Restricted rooms".
        """
        rules = room.state.event(*JOIN_RULES)
        rule = join_rule_of(rules)
        restricted = (rule == "restricted" and room.version.restricted) or (
            rule == "knock_restricted" and room.version.knock_restricted
        )
        if not restricted or room.state.membership(user_id) in ("invite", "join", "ban"):
            return {}
        rooms = allowed_rooms(rules)
        if not rooms or not await is_joined_to_any(self._database, user_id, rooms):
            raise forbidden("You must be in one of the rooms whose members may join this one")
        levels = room.state.power_levels
        own = [member for member in room.state.members("join") if server_of(member) == self._server_name]
        voucher = max(own, key=levels.user_level, default=None)
        if voucher is None or levels.user_level(voucher) < levels.invite:
            raise forbidden("No user of this server can authorise your join to this room")
        return {AUTHORISED_VIA: voucher}

    async def _third_party_invite(self, room: LiveRoom, user_id: UserId, signed: Mapping[str, Any]) -> Draft:
        """Return the invite that an identity server has signed. The room's rules verify it."""
        token = signed.get("token")
        entry = room.state.entry("m.room.third_party_invite", token) if isinstance(token, str) else None
        if entry is None:
            raise forbidden("There is no such third-party invite in this room")
        original = await self._writer.state_event(room, entry)
        if server_of(original.sender) != self._server_name:
            raise RemoteServerError("The server of the inviting user cannot be reached")
        shown = original.content.get("display_name")
        invite = {"display_name": shown if isinstance(shown, str) else "", "signed": signed}
        return member_draft(original.sender, user_id, "invite", {"third_party_invite": invite})


def guests_can_join(room: LiveRoom) -> bool:
    """Return True if guests may join: m.room.guest_access must say so. Spec: client-server API, "Guest Access"."""
    access = room.state.event(*GUEST_ACCESS)
    return access is not None and access.content.get("guest_access") == "can_join"
