"""The rooms of a user that pass a list's filter, in order, kept from one answer to the next.

A list is looked through as a whole once; after that only rooms with news are looked at again.
Spec: MSC4186, "Lists", SlidingRoomFilter.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.storage.engine.pool import Source
from shared.storage.rooms.list_traits import RoomTraits, get_rooms_once_joined
from shared.storage.rooms.memberships import RoomMembership
from shared.storage.user_data.account_data import AccountDataRecord
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.sliding.connection_state import SentRoom
from workers.synchrotron.sliding.ranking import Ranking
from workers.synchrotron.sliding.request import RoomFilter
from workers.synchrotron.sliding.room_traits import Traits
from workers.synchrotron.users.sync_user import GLOBAL, SyncUser

_DIRECT, _IGNORED, _INVITES, _TAG = "m.direct", "m.ignored_user_list", "m.invite_permission_config", "m.tag"
_CHILD = "m.space.child"


@dataclass(slots=True)
class RoomList:
    """seq: everything that this process applied up to this number is in it. globals: what it also depends on."""

    ranking: Ranking
    seq: int
    globals: tuple[AccountDataRecord | None, ...]
    children: frozenset[str] = frozenset()


@dataclass(slots=True)
class ConnectionLists:
    """What is remembered of one connection's lists; all of it can be made anew."""

    by_filter: dict[RoomFilter, RoomList] = field(default_factory=dict)
    #: (room, ordinal of the membership) -> whether the user had been joined before he was removed.
    once_joined: dict[tuple[str, int], bool] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return 500 + sum(200 * len(one.ranking) for one in self.by_filter.values())


class RoomLists:
    """reads: counted."""

    def __init__(self, rooms: RoomCache, traits: Traits, reads: Source) -> None:
        self._rooms = rooms
        self._traits = traits
        self._reads = reads

    async def bring_up(
        self, lists: ConnectionLists, user: SyncUser, filters: Iterable[RoomFilter], named: Collection[str], seq: int,
        was_sent: Callable[[str], bool],
    ) -> dict[RoomFilter, RoomList]:  # fmt: skip
        """Return the list of each filter, with everything in it that was applied up to `seq`, perhaps with more.

        named: further rooms about which `may_tell` will be asked. was_sent: whether the client has been sent a room on
        this connection.
        """
        known = lists.by_filter = {filter: one for filter in filters if (one := lists.by_filter.get(filter))}
        changed = {filter: self._changed(known.get(filter), user, filter) for filter in filters}
        if None in changed.values():
            concerned = list(user.memberships.values())
        else:
            rooms = {room_id for each in changed.values() for room_id in each or ()}.union(named)
            concerned = [user.memberships[room_id] for room_id in rooms if room_id in user.memberships]
        if changed:
            await self._traits.load([(one.room_id, one.room_nid) for one in concerned])
        await self._learn_once_joined(lists, user, concerned, named, was_sent)
        for filter, room_ids in changed.items():
            if room_ids is None:
                known[filter] = await self._make(lists, user, filter, seq, was_sent)
                continue
            for room_id in room_ids:
                self._place(known[filter], lists, user, filter, room_id, was_sent)
            known[filter].seq = seq
        return known

    def may_tell(
        self, lists: ConnectionLists, user: SyncUser, membership: RoomMembership, was_sent: Callable[[str], bool]
    ) -> bool:
        """Return whether the room is one of the user's that lists are made of. Spec: MSC4186, "Lists"."""
        kind, room_id = membership.membership, membership.room_id
        if kind in ("join", "knock"):
            return True
        if was_sent(room_id):
            return True  # also that he left before he was invited by somebody whom he ignores, or forgot the room
        if kind == "invite":
            return not user.hides_invites_of(membership.sender)
        if membership.forgotten:
            return False
        if kind == "leave" and membership.sender == user.user_id:
            return False
        return lists.once_joined.get((room_id, membership.ordinal), False)

    def may_subscribe(
        self, lists: ConnectionLists, user: SyncUser, room_id: str, was_sent: Callable[[str], bool]
    ) -> bool:
        """Return whether a room that is subscribed to may be told of. Spec: MSC4186, "Subscriptions"."""
        membership = user.memberships.get(room_id)
        if membership is None:
            return False
        if membership.membership == "leave" and not membership.forgotten:
            return was_sent(room_id) or lists.once_joined.get((room_id, membership.ordinal), False)
        return self.may_tell(lists, user, membership, was_sent)

    @staticmethod
    def was_member(lists: ConnectionLists, membership: RoomMembership, sent: SentRoom | None) -> bool:
        """Return whether the user is in a room that may be told of, or has been; else he gets its stripped state."""
        if membership.membership in ("invite", "knock"):
            return False
        if membership.membership == "join":
            return True
        # Of a room that was sent nothing was looked up: from an invitation one goes without having been in the room.
        known = lists.once_joined.get((membership.room_id, membership.ordinal))
        return known if known is not None else sent is not None and not sent.stripped

    async def _learn_once_joined(
        self, lists: ConnectionLists, user: SyncUser, concerned: Iterable[RoomMembership], named: Collection[str],
        was_sent: Callable[[str], bool],
    ) -> None:  # fmt: skip
        """Find out of rooms in which the user is no more whether he had been in them, where that matters."""
        unknown = [
            one
            for one in concerned
            if one.membership in ("leave", "ban")
            and (one.membership == "ban" or one.sender != user.user_id or one.room_id in named)
            and (one.room_id, one.ordinal) not in lists.once_joined
            and not was_sent(one.room_id)
        ]
        if unknown:
            joined = await get_rooms_once_joined(self._reads, user.user_id, [one.room_nid for one in unknown])
            lists.once_joined.update(((one.room_id, one.ordinal), one.room_nid in joined) for one in unknown)

    @staticmethod
    def _changed(one: RoomList | None, user: SyncUser, filter: RoomFilter) -> list[str] | None:
        """Return the rooms to look at again; None: all."""
        if one is None or one.seq < user.changes_from or one.globals != _globals(user):
            return None
        changed = user.changed_since(one.seq)
        if filter.spaces is not None and not filter.spaces.isdisjoint(changed):
            return None
        return changed

    async def _make(
        self, lists: ConnectionLists, user: SyncUser, filter: RoomFilter, seq: int, was_sent: Callable[[str], bool]
    ) -> RoomList:
        children = await self._children(user, filter.spaces)
        one = RoomList(Ranking(), seq, _globals(user), children)
        direct = direct_rooms(user)
        places = []
        for membership in user.memberships.values():
            place = self._place_of(one, lists, user, filter, membership, direct, was_sent)
            if place is not None:
                places.append((place, membership.room_id))
        one.ranking = Ranking(places)
        return one

    def _place(
        self, one: RoomList, lists: ConnectionLists, user: SyncUser, filter: RoomFilter, room_id: str,
        was_sent: Callable[[str], bool],
    ) -> None:  # fmt: skip
        membership = user.memberships.get(room_id)
        if membership is None:
            return
        place = self._place_of(one, lists, user, filter, membership, direct_rooms(user), was_sent)
        if place is None:
            one.ranking.remove(room_id)
        else:
            one.ranking.put(room_id, place)

    def _place_of(
        self, one: RoomList, lists: ConnectionLists, user: SyncUser, filter: RoomFilter, membership: RoomMembership,
        direct: frozenset[str], was_sent: Callable[[str], bool],
    ) -> int | None:  # fmt: skip
        """Return the position of the room's last activity, as far as it is the user's to see; None: not in the list."""
        traits = self._traits.get(membership.room_id)
        if traits is None or not self.may_tell(lists, user, membership, was_sent):
            return None
        if not passes(filter, user, user.told_membership(membership.room_id), traits, direct, one.children):
            return None
        return traits.position if membership.membership == "join" else membership.position

    async def _children(self, user: SyncUser, spaces: Iterable[str] | None) -> frozenset[str]:
        """Return the rooms named as children in those of the spaces that the user is in."""
        children: set[str] = set()
        for space_id in spaces or ():
            membership = user.memberships.get(space_id)
            if membership is None or membership.membership != "join":
                continue
            room = await self._rooms.get(space_id)
            for (type_, state_key), held in ({} if room is None else room.state).items():
                if type_ == _CHILD and held.event is not None and held.event.content().get("via"):
                    children.add(state_key)
        return frozenset(children)


def passes(
    filter: RoomFilter, user: SyncUser, membership: RoomMembership, traits: RoomTraits, direct: frozenset[str],
    children: frozenset[str],
) -> bool:  # fmt: skip
    """PURE. Return whether a room passes a filter. direct: the user's direct chats; children: of the spaces named."""
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
    if filter.room_name_like is not None and filter.room_name_like not in (traits.name or "").casefold():
        return False
    if filter.tags is not None or filter.not_tags:
        tags = _tags(user, room_id)
        if not filter.not_tags.isdisjoint(tags) or (filter.tags is not None and filter.tags.isdisjoint(tags)):
            return False
    return True


def direct_rooms(user: SyncUser) -> frozenset[str]:
    """Return the rooms in the user's m.direct, whatever shape it has."""
    found: set[str] = set()
    for room_ids in _content(user, GLOBAL, _DIRECT).values():
        if isinstance(room_ids, list):
            found.update(room_id for room_id in room_ids if isinstance(room_id, str))
    return frozenset(found)


def _tags(user: SyncUser, room_id: str) -> frozenset[str]:
    tags = _content(user, room_id, _TAG).get("tags")
    return frozenset(tags) if isinstance(tags, dict) else frozenset()


def _content(user: SyncUser, room_id: str, type_: str) -> Mapping[str, Any]:
    record = user.account_data.get(room_id, {}).get(type_)
    content = None if record is None or record.json is None else orjson.loads(record.json)
    return content if isinstance(content, dict) else {}


def _globals(user: SyncUser) -> tuple[AccountDataRecord | None, ...]:
    records = user.account_data.get(GLOBAL, {})
    return records.get(_DIRECT), records.get(_IGNORED), records.get(_INVITES)
