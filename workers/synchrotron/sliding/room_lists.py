"""The rooms of a user that pass a list's filter, in order, kept from one response to the next.

A list is built once from all rooms of the user. After that only rooms with updates are examined.
Spec: MSC4186, "Lists", SlidingRoomFilter.
"""

from collections.abc import Callable, Collection, Iterable, Sequence, Set
from dataclasses import dataclass, field, replace

from shared.cache.sizes import SET_ENTRY_BYTES
from shared.core.identifiers import RoomId, UserId
from shared.core.rows import GLOBAL
from shared.core.search.folding import fold
from shared.runtime.slices import Slices
from shared.storage.engine.pool import Source
from shared.storage.rooms.list_traits import RoomTraits, get_rooms_once_joined
from shared.storage.rooms.memberships import RoomMembership
from shared.storage.user_data.account_data import AccountDataRecord
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.sections.erased_senders import ErasedSenders
from workers.synchrotron.sliding.connection_state import SentRoom
from workers.synchrotron.sliding.ranking import Ranking
from workers.synchrotron.sliding.request import RoomFilter
from workers.synchrotron.sliding.room_traits import RoomTraitsCache
from workers.synchrotron.users.sync_user import SyncUser

_DIRECT, _IGNORED, _INVITES = "m.direct", "m.ignored_user_list", "m.invite_permission_config"
_CHILD = "m.space.child"
#: Measured with tracemalloc. The filters belong to the requested lists, and the room ids to the memberships.
_LISTS_BYTES, _LIST_BYTES = 500, 900
_RANKED_BYTES = 130
_ONCE_JOINED_BYTES = 200


@dataclass(slots=True)
class RoomList:
    """The rooms that pass one filter."""

    ranking: Ranking
    #: The seq (see `SyncUser`) up to which everything applied in this process is in the list.
    seq: int
    #: The global account data that the list depends on.
    globals: tuple[AccountDataRecord | None, ...]
    #: The children of the spaces in the filter.
    children: frozenset[RoomId] = frozenset()


@dataclass(slots=True)
class ConnectionLists:
    """The lists of one connection. All of it can be built again."""

    by_filter: dict[RoomFilter, RoomList] = field(default_factory=dict)
    #: By (room, ordinal of the membership): True if the user had been joined before they were removed.
    once_joined: dict[tuple[RoomId, int], bool] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        rooms = sum(
            _RANKED_BYTES * len(one.ranking) + SET_ENTRY_BYTES * len(one.children) for one in self.by_filter.values()
        )
        return _LISTS_BYTES + _LIST_BYTES * len(self.by_filter) + rooms + _ONCE_JOINED_BYTES * len(self.once_joined)


@dataclass(frozen=True, slots=True)
class _ListUpdate:
    """The inputs of an update of a connection's lists."""

    lists: ConnectionLists
    user: SyncUser
    was_sent: Callable[[RoomId], bool]
    #: The erased users, if a filter looks at names.
    erased: Set[UserId]
    #: The children of the spaces that several lists name.
    children: dict[RoomId, frozenset[RoomId]] = field(default_factory=dict)


class RoomLists:
    """Builds and updates lists."""

    def __init__(self, rooms: RoomCache, traits: RoomTraitsCache, reads: Source, erased: ErasedSenders) -> None:
        self._erased = erased
        self._rooms = rooms
        self._traits = traits
        self._reads = reads

    async def update(
        self,
        lists: ConnectionLists,
        user: SyncUser,
        *,
        filters: Sequence[RoomFilter],
        named: Collection[RoomId],
        seq: int,
        was_sent: Callable[[RoomId], bool],
    ) -> dict[RoomFilter, RoomList]:
        """Return the list of each filter with everything applied up to `seq`, and perhaps more.

        named: further rooms that the caller passes to `may_subscribe`.
        was_sent: returns True if the client has been sent a room on this connection.
        """
        known = lists.by_filter = {filter: one for filter in filters if (one := lists.by_filter.get(filter))}
        changed = {filter: self._changed(known.get(filter), user, filter) for filter in filters}
        if None in changed.values():
            examined = list(user.memberships.values())
        else:
            room_ids = {room_id for each in changed.values() for room_id in each or ()}.union(named)
            examined = [user.memberships[room_id] for room_id in room_ids if room_id in user.memberships]
        if changed:
            await self._traits.load([(one.room_id, one.room_nid) for one in examined])
        await self._load_once_joined(lists, user, examined, named, was_sent)
        by_name = any(filter.room_name_like is not None for filter in filters)
        erased = await self._erased.users() if by_name else frozenset[UserId]()
        update, slices = _ListUpdate(lists, user, was_sent, erased), Slices()
        for filter, changed_ids in changed.items():
            if changed_ids is None:
                known[filter] = await self._build(update, filter, seq, slices)
                continue
            # A change while others run has a later `seq`: the next response examines its room again.
            for room_id in changed_ids:
                await slices.rest()
                self._place(update, known[filter], filter, room_id, user.direct_rooms)
            known[filter].seq = seq
        return known

    def may_list(
        self, lists: ConnectionLists, user: SyncUser, membership: RoomMembership, was_sent: Callable[[RoomId], bool]
    ) -> bool:
        """Return True if lists may have the room. Spec: MSC4186, "Lists"."""
        kind, room_id = membership.membership, membership.room_id
        if kind in ("join", "knock"):
            return True
        if was_sent(room_id):
            return True  # the client learns that it left a room, even before a hidden invitation or forgetting it
        if kind == "invite":
            return not user.hides_invites_of(membership.sender)
        if membership.forgotten:
            return False
        if kind == "leave" and membership.sender == user.user_id:
            return False
        return lists.once_joined.get((room_id, membership.ordinal), False)

    def may_subscribe(
        self, lists: ConnectionLists, user: SyncUser, room_id: RoomId, was_sent: Callable[[RoomId], bool]
    ) -> bool:
        """Return True if the user may subscribe to the room. Spec: MSC4186, "Subscriptions"."""
        membership = user.memberships.get(room_id)
        if membership is None:
            return False
        if membership.membership == "leave" and not membership.forgotten:
            return was_sent(room_id) or lists.once_joined.get((room_id, membership.ordinal), False)
        return self.may_list(lists, user, membership, was_sent)

    @staticmethod
    def was_member(lists: ConnectionLists, membership: RoomMembership, sent: SentRoom | None) -> bool:
        """Return True if the user is or was joined to a room in a response. Else they get its stripped state."""
        if membership.membership in ("invite", "knock"):
            return False
        if membership.membership == "join":
            return True
        # `once_joined` has no entry for rooms that were sent before.
        known = lists.once_joined.get((membership.room_id, membership.ordinal))
        return known if known is not None else sent is not None and not sent.stripped

    async def _load_once_joined(
        self,
        lists: ConnectionLists,
        user: SyncUser,
        examined: Iterable[RoomMembership],
        named: Collection[RoomId],
        was_sent: Callable[[RoomId], bool],
    ) -> None:
        """Find out if the user had been joined to the rooms that they left, where that matters."""
        unknown = [
            one
            for one in examined
            if one.membership in ("leave", "ban")
            and (one.membership == "ban" or one.sender != user.user_id or one.room_id in named)
            and (one.room_id, one.ordinal) not in lists.once_joined
            and not was_sent(one.room_id)
        ]
        if unknown:
            joined = await get_rooms_once_joined(self._reads, user.user_id, [one.room_nid for one in unknown])
            lists.once_joined.update(((one.room_id, one.ordinal), one.room_nid in joined) for one in unknown)

    @staticmethod
    def _changed(one: RoomList | None, user: SyncUser, filter: RoomFilter) -> list[RoomId] | None:
        """Return the rooms to examine again, None for all."""
        if one is None or one.seq < user.changes_from or one.globals != _globals(user):
            return None
        changed = user.changed_since(one.seq)
        if filter.spaces is not None and not filter.spaces.isdisjoint(changed):
            return None
        return changed

    async def _build(self, update: _ListUpdate, filter: RoomFilter, seq: int, slices: Slices) -> RoomList:
        children = await self._children(update, filter.spaces or (), slices)
        # First of all: if the records change while others run, the next response builds the list again.
        one = RoomList(Ranking(), seq, _globals(update.user), children)
        direct = update.user.direct_rooms
        ranked = []
        for membership in list(update.user.memberships.values()):
            await slices.rest()
            position = self._position(update, one, filter, membership, direct)
            if position is not None:
                ranked.append((position, membership.room_id))
        one.ranking = Ranking(ranked)
        return one

    def _place(
        self, update: _ListUpdate, one: RoomList, filter: RoomFilter, room_id: RoomId, direct: frozenset[RoomId]
    ) -> None:
        membership = update.user.memberships.get(room_id)
        if membership is None:
            return
        position = self._position(update, one, filter, membership, direct)
        if position is None:
            one.ranking.remove(room_id)
        else:
            one.ranking.put(room_id, position)

    def _position(
        self,
        update: _ListUpdate,
        one: RoomList,
        filter: RoomFilter,
        membership: RoomMembership,
        direct: frozenset[RoomId],
    ) -> int | None:
        """Return the position of the last activity that the user may see, None if the room is not in the list."""
        user, traits = update.user, self._traits.get(membership.room_id)
        if traits is None or not self.may_list(update.lists, user, membership, update.was_sent):
            return None
        shown = user.shown_membership(membership.room_id)
        if traits.named_by in update.erased:
            traits = replace(traits, name=None)
        if not passes(filter, user, shown, traits, direct, one.children):
            return None
        return traits.position if membership.membership == "join" else membership.position

    async def _children(self, update: _ListUpdate, spaces: Iterable[RoomId], slices: Slices) -> frozenset[RoomId]:
        """Return the children of those of the spaces that the user is joined to."""
        children: set[RoomId] = set()
        for space_id in spaces:
            known = update.children.get(space_id)
            if known is None:
                await slices.rest()
                known = update.children[space_id] = await self._children_of(update.user, space_id)
            children |= known
        return frozenset(children)

    async def _children_of(self, user: SyncUser, space_id: RoomId) -> frozenset[RoomId]:
        membership = user.memberships.get(space_id)
        if membership is None or membership.membership != "join":
            return frozenset()
        room = await self._rooms.get(space_id)
        return frozenset(
            RoomId(state_key)
            for (type_, state_key), entry in ({} if room is None else room.state).items()
            if type_ == _CHILD and entry.event is not None and entry.event.content().get("via")
        )


def passes(
    filter: RoomFilter,
    user: SyncUser,
    membership: RoomMembership,
    traits: RoomTraits,
    direct: frozenset[RoomId],
    children: frozenset[RoomId],
) -> bool:
    """PURE. Return True if a room passes a filter.

    direct: the user's direct chats. children: the children of the spaces in the filter.
    """
    room_id = membership.room_id
    if filter.is_dm is not None and filter.is_dm != (room_id in direct):
        return False
    if filter.spaces is not None and room_id not in children:
        return False
    if filter.is_encrypted is not None and filter.is_encrypted != traits.encrypted:
        return False
    if filter.is_invited is not None and filter.is_invited != (membership.membership == "invite"):
        return False
    if traits.type in filter.not_room_types or (filter.room_types is not None and traits.type not in filter.room_types):
        return False
    if filter.room_name_like is not None and filter.room_name_like not in fold(traits.name or ""):
        return False
    if filter.tags is not None or filter.not_tags:
        tags = user.tags_of(room_id)
        if not filter.not_tags.isdisjoint(tags) or (filter.tags is not None and filter.tags.isdisjoint(tags)):
            return False
    return True


def _globals(user: SyncUser) -> tuple[AccountDataRecord | None, ...]:
    records = user.account_data.get(GLOBAL, {})
    return records.get(_DIRECT), records.get(_IGNORED), records.get(_INVITES)
