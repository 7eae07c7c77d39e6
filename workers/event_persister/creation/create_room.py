"""POST /createRoom: a new room in a slot of ours, with all of its first events in one statement.

Room ids are tried until one is in a slot of ours, so no other process takes part. Before version 12 the id is random.
From then on it is the hash of the create event, whose `origin_server_ts` is moved by milliseconds (some two tries with
two persisters). Spec: client-server API, "Creation"; rooms/v12, "Room IDs".
"""

from collections.abc import Sequence

from replication.slots.forwarder import SlotForwarder
from shared.core.errors import AuthRuleViolation, MatrixError, Unavailable, invalid_param
from shared.core.events import Event
from shared.core.events.readers.create import creators_of
from shared.core.identifiers import UserId, is_room_alias
from shared.core.room_versions import RoomVersion, get_room_version
from shared.core.slots import slot_of
from shared.http.endpoint import RateLimit
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.operations.alias_quota import check_alias_quota
from shared.operations.quotas import UserQuotas
from shared.runtime.clock import Clock
from shared.storage.engine.number_blocks import NumberBlock
from shared.storage.engine.pool import Database
from shared.storage.rooms.aliases import get_room_of_alias
from shared.storage.rooms.memberships import get_member_profiles
from workers.event_persister.creation.create_event import build_create_event, check_additional_creators, new_room_id
from workers.event_persister.creation.first_events import CreateRoomBody, create_content, first_events
from workers.event_persister.members.change_membership import no_identity_server
from workers.event_persister.members.member_changes import MemberChanges
from workers.event_persister.members.member_profile import MemberProfiles
from workers.event_persister.room.drafts import NewRoom
from workers.event_persister.room.event_builder import Identity
from workers.event_persister.room.live_room import new_live_room
from workers.event_persister.room_writer import RoomWriter
from workers.event_persister.writing.refusals import aliases_in, check_aliases, check_content

_MAX_EVENTS = 900  # of a new room: they go into one statement
_MAX_TRIES = 3000  # with 64 persisters all of them fail once in 10^20 rooms


class CreateRoomHandler:
    """room_numbers: of the sequence `room_nids`."""

    def __init__(
        self,
        *,
        writer: RoomWriter,
        changes: MemberChanges,
        profiles: MemberProfiles,
        identity: Identity,
        default_version: str,
        slots: SlotForwarder,
        room_numbers: NumberBlock,
        database: Database,
        clock: Clock,
        quotas: UserQuotas,
    ) -> None:
        self._quotas = quotas
        self._writer = writer
        self._changes = changes
        self._profiles = profiles
        self._identity = identity
        self._default_version = default_version
        self._slots = slots
        self._room_numbers = room_numbers
        self._database = database
        self._clock = clock
        self._last_ts = 0

    # Any persister serves this: it picks ids whose slot is its own.
    @endpoint(
        name="create_room",
        method="POST",
        path="/_matrix/client/{version}/createRoom",
        api_v1=True,
        pool="rooms",
        rate_limit=RateLimit.ROOM_CREATION,
        spec="client-server-api/#post_matrixclientv3createroom",
    )
    async def create_room(self, request: Request) -> Response:
        """POST /createRoom"""
        creator = request.user.user_id
        body = request.decode(CreateRoomBody)
        version = get_room_version(body.room_version or self._default_version)
        if body.invite_3pid:
            raise no_identity_server()
        invited = [user_id for user_id in dict.fromkeys(body.invite or []) if user_id != creator]
        if len(invited) + len(body.initial_state or []) > _MAX_EVENTS:
            raise invalid_param(f"Too many invites and state events for one request: at most {_MAX_EVENTS} are allowed")
        await self._changes.check_can_be_invited(invited)
        alias = await self._check_alias(body.room_alias_name, request.user.user_id)
        for state in body.initial_state or []:
            if (state.type, state.state_key) == ("m.room.canonical_alias", ""):
                check_aliases(aliases_in(state.content), set() if alias is None else {alias})
        profiles = await get_member_profiles(self._database, [creator, *invited])

        elsewhere = await self._slots.route_to_any(request, "rooms")
        if elsewhere is not None:
            return elsewhere
        create = self._create_event(version, body, creator, invited)
        self._slots.hold(request, "rooms", slot_of(create.room_id))
        await self._room_numbers.reserve(1)
        room_nid = self._room_numbers.take()
        create_nid = await self._writer.take_event_number()
        room = new_live_room(self._identity, version, room_nid, create)
        new_room = NewRoom(
            creator=creator, is_public=body.visibility == "public", created_ms=create.origin_server_ts, alias=alias
        )
        creators = creators_of(version, create)
        drafts = first_events(version, body, creator, creators, alias, invited, profiles)
        for draft in drafts:
            check_content(draft.type, draft.content)
        await self._changes.expect_settings(create, creator)
        try:
            await self._writer.write_new_room(room, create_nid, drafts, new_room)
        except AuthRuleViolation as violation:
            raise MatrixError("M_INVALID_ROOM_STATE", f"The room cannot be created: {violation.message}") from None
        await self._profiles.follow(room, creator, profiles.get(creator, {}))
        return json_response({"room_id": room.room_id})

    async def _check_alias(self, localpart: str | None, creator: UserId) -> str | None:
        """Return the whole alias. Raises M_INVALID_PARAM, M_ROOM_IN_USE, M_USER_LIMIT_EXCEEDED."""
        if localpart is None:
            return None
        alias = f"#{localpart}:{self._identity.server_name}"
        if not localpart or ":" in localpart or not is_room_alias(alias):
            raise invalid_param("room_alias_name cannot be the local part of a room alias")
        # If another request takes it before the commit, the statement fails with the same answer.
        if await get_room_of_alias(self._database, alias) is not None:
            raise MatrixError("M_ROOM_IN_USE", "This room alias is already in use", 400)
        await check_alias_quota(self._database, self._quotas, creator)
        return alias

    def _create_event(
        self, version: RoomVersion, body: CreateRoomBody, creator: UserId, invited: Sequence[UserId]
    ) -> Event:
        content = create_content(version, body, creator, invited)
        if version.additional_creators and "additional_creators" in content:
            check_additional_creators(content["additional_creators"])
        ours = self._slots.free_slots("rooms")
        for _ in range(_MAX_TRIES):
            room_id = new_room_id(version, self._identity.server_name)
            if room_id is not None and slot_of(room_id) not in ours:
                continue
            # Never the same twice: nothing else distinguishes two create events.
            self._last_ts = max(self._clock.now_ms(), self._last_ts + 1)
            create = build_create_event(self._identity, version, room_id, creator, content, self._last_ts)
            if slot_of(create.room_id) in ours:
                return create
        raise Unavailable("This process owns too few room slots. Try again")
