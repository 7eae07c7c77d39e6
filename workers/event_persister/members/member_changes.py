"""Changes of membership: what goes into the events, and what is asked before the room's own rules.

The rules themselves (who may kick, join ...) are the pure core's: an event that breaks one is refused when it is
built. Here stands what the rules do not know: profiles, guests, people who want no invites, rooms whose members may
join another one. Spec: client-server API, "Room membership", "Guest Access", "Invite permission", "Restricted rooms".
"""

from collections.abc import Mapping
from typing import Any

from shared.core.canonical_json import encode_canonical
from shared.core.errors import MatrixError, RemoteServerError, bad_json, forbidden
from shared.core.events import Event
from shared.core.events.readers import allowed_rooms, join_rule_of
from shared.core.events.readers.create import predecessor_of
from shared.core.identifiers import check_user_id, server_of
from shared.http.request import Requester
from shared.storage.engine.pool import Database
from shared.storage.rooms.memberships import get_member_profiles, get_users_blocking_invites, is_joined_to_any
from shared.storage.rooms.upgrades import remember_settings
from workers.event_persister.room.drafts import Draft
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room.room_state import GUEST_ACCESS, JOIN_RULES
from workers.event_persister.room_writer import RoomWriter

MEMBER = "m.room.member"
AUTHORISED_VIA = "join_authorised_via_users_server"
_MEMBERSHIPS = ("join", "invite", "leave", "ban", "knock")


def member_draft(sender: str, target: str, membership: str, content: Mapping[str, Any]) -> Draft:
    """content: further keys; those that are None are left out."""
    filled = {key: value for key, value in content.items() if value is not None}
    return Draft(sender=sender, type=MEMBER, state_key=target, content={**filled, "membership": membership})


class MemberChanges:
    """server_name: ours; other servers' users cannot be reached yet."""

    def __init__(self, writer: RoomWriter, database: Database, server_name: str) -> None:
        self._writer = writer
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
        """Let the requester in; nothing changes when he is in already.

        further: more keys for the member event.
        signed: `third_party_signed` of the request, the proof that an invite to an e-mail address is for him.
        Raises M_FORBIDDEN, M_GUEST_ACCESS_FORBIDDEN.
        """
        user_id = requester.user_id
        if await self._is_already(room, user_id, "join"):
            return
        self.check_guest(room, requester)
        drafts = [] if signed is None else [await self._third_party_invite(room, user_id, signed)]
        profile = (await get_member_profiles(self._database, [user_id])).get(user_id, {})
        content = {
            **profile,
            **further,
            "reason": reason,
            # The signed invite above is as good as an invite: it needs nobody's leave besides.
            **(await self._authorisation(room, user_id) if signed is None else {}),
        }
        await self.expect_settings(room.create, user_id)
        drafts.append(member_draft(user_id, user_id, "join", content))
        await self._writer.write(room, drafts)

    async def knock(self, room: LiveRoom, requester: Requester, reason: str | None) -> None:
        """Ask to be let in. Raises M_FORBIDDEN where the room takes no knocks, or the user is in, invited or banned."""
        user_id = requester.user_id
        if not room.version.knocking:
            raise forbidden("This room's version knows no knocking")
        profile = (await get_member_profiles(self._database, [user_id])).get(user_id, {})
        if await self._is_already(room, user_id, "knock"):
            return
        await self._writer.write(room, [member_draft(user_id, user_id, "knock", {**profile, "reason": reason})])

    async def leave(self, room: LiveRoom, user_id: str, reason: str | None) -> None:
        """Leave, or reject an invite, or take back a knock; nothing changes for one who has left already."""
        if await self._is_already(room, user_id, "leave"):
            return
        await self._writer.write(room, [member_draft(user_id, user_id, "leave", {"reason": reason})])

    async def invite(self, room: LiveRoom, requester: Requester, target: str, reason: str | None) -> None:
        """Invite a user of this server; nothing changes for one who is invited already.

        Raises M_FORBIDDEN, M_INVITE_BLOCKED, RemoteServerError for users of other servers.
        """
        sender = requester.user_id
        self.check_member(room, sender)
        await self.check_can_be_invited([target])
        profile = (await get_member_profiles(self._database, [target])).get(target, {})
        if room.state.power_levels.user_level(sender) >= room.state.power_levels.invite and await self._is_already(
            room, target, "invite"
        ):
            return
        await self._writer.write(room, [member_draft(sender, target, "invite", {**profile, "reason": reason})])

    async def kick(self, room: LiveRoom, requester: Requester, target: str, reason: str | None) -> None:
        """Make a member leave, or take back an invite or a knock. Raises M_FORBIDDEN."""
        self.check_member(room, requester.user_id)
        if room.state.membership(target) not in ("join", "invite", "knock"):
            raise forbidden("That user is not in this room")
        await self._writer.write(room, [member_draft(requester.user_id, target, "leave", {"reason": reason})])

    async def ban(self, room: LiveRoom, requester: Requester, target: str, reason: str | None) -> None:
        """Ban a user, in the room or not. Raises M_FORBIDDEN."""
        await self._writer.write(room, [member_draft(requester.user_id, target, "ban", {"reason": reason})])

    async def unban(self, room: LiveRoom, requester: Requester, target: str, reason: str | None) -> None:
        """Lift a ban: the user may be invited, or join, again. Raises M_FORBIDDEN."""
        self.check_member(room, requester.user_id)
        if room.state.membership(target) != "ban":
            raise forbidden("That user is not banned from this room")
        await self._writer.write(room, [member_draft(requester.user_id, target, "leave", {"reason": reason})])

    async def prepare_member_state(
        self, room: LiveRoom, requester: Requester, target: str, content: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return the content for an m.room.member event that a client sets as state, after the checks of its kind.

        Raises M_BAD_JSON for an unknown membership, M_INVALID_PARAM for a state key that is no user id, and what the
        ordinary way to this membership raises.
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
        profile = (await get_member_profiles(self._database, [target])).get(target, {})
        return {**profile, **authorisation, **content}

    async def check_can_be_invited(self, user_ids: list[str]) -> None:
        """Raise M_INVITE_BLOCKED (403), or RemoteServerError where a user is of another server."""
        for user_id in user_ids:
            if server_of(check_user_id(user_id)) != self._server_name:
                raise RemoteServerError("Users of other servers cannot be reached")
        if await get_users_blocking_invites(self._database, user_ids):
            raise MatrixError("M_INVITE_BLOCKED", "A user does not wish to be invited", 403)

    def check_member(self, room: LiveRoom, user_id: str) -> None:
        """Raise M_FORBIDDEN unless the user is in the room. Before an answer that could tell strangers about it."""
        if room.state.membership(user_id) != "join":
            raise forbidden("You are not in this room")

    def check_guest(self, room: LiveRoom, requester: Requester) -> None:
        """Raise M_GUEST_ACCESS_FORBIDDEN for a guest at a room that does not let guests in."""
        if requester.is_guest and not guests_can_join(room):
            raise MatrixError("M_GUEST_ACCESS_FORBIDDEN", "Guests cannot join this room", 403)

    async def expect_settings(self, create: Event, user_id: str) -> None:
        """Note that what the user has set for the room's predecessor is to follow him, should he join.

        Before the join is stored: a job looks whether it was. Spec: client-server API, "Room Upgrades".
        """
        predecessor = predecessor_of(create)
        if predecessor is not None:
            await remember_settings(self._database, user_id, predecessor, create.room_id)

    async def _is_already(self, room: LiveRoom, user_id: str, membership: str) -> bool:
        entry = room.state.entry(MEMBER, user_id)
        if entry is None or entry.membership != membership:
            return False
        await self._writer.settled(room, entry)
        return True

    async def _authorisation(self, room: LiveRoom, user_id: str) -> dict[str, str]:
        """Return the key that a join of a restricted room needs; nothing where none is needed or to be had.

        We vouch with a member of ours who may invite. Spec: client-server API, "Restricted rooms".
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
            raise forbidden("You are in none of the rooms whose members may join this one")
        levels = room.state.power_levels
        own = [member for member in room.state.members("join") if server_of(member) == self._server_name]
        voucher = max(own, key=levels.user_level, default=None)
        if voucher is None or levels.user_level(voucher) < levels.invite:
            raise forbidden("Nobody on this server may let you into this room")
        return {AUTHORISED_VIA: voucher}

    async def _third_party_invite(self, room: LiveRoom, user_id: str, signed: Mapping[str, Any]) -> Draft:
        """Return the invite that a signature of an identity server stands for; the room's rules verify it."""
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
    """Spec: client-server API, "Guest Access": only where the event is present and says so."""
    access = room.state.event(*GUEST_ACCESS)
    return access is not None and access.content.get("guest_access") == "can_join"


def same_json(one: Any, other: Any) -> bool:
    """Compare as JSON: Python holds true and 1 for equal."""
    return encode_canonical(one) == encode_canonical(other)
