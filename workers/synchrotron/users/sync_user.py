"""PURE: one user who syncs here: their memberships, their account data, and their rooms with updates."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from shared.cache.sizes import optional_size, text_size
from shared.core.identifiers import RoomId, UserId
from shared.core.push_rules import ALL_OFF, RuleSwitches, changes_from_json, full_ruleset
from shared.core.rows import GLOBAL
from shared.core.unread import UnreadRoom
from shared.storage.push.rules import PushRulesRecord
from shared.storage.rooms.memberships import RoomMembership
from shared.storage.user_data.account_data import AccountDataRecord, blocks_invites, ignored_in
from workers.synchrotron.users.user_devices import UserDevices

_ISSUED_TOKENS = 32  # the latest tokens of all devices together; an older token costs more, nothing else
#: Measured with tracemalloc.
_USER_BYTES = 4_500
_TOKEN_BYTES = 320  # an issued token, which other users have too perhaps
_MEMBERSHIP_BYTES = 800  # with the room's places in `changed` and the index by room, without the texts
_ACCOUNT_DATA_BYTES = 350
_ACCOUNT_DATA_ROOM_BYTES = 450  # of a room with account data
_DECODED_BYTES = 150  # an entry in a decoded list
_IGNORED_LIST, _DIRECT = "m.ignored_user_list", "m.direct"
#: The types that are kept decoded, with what an entry of their lists begins with.
_DECODED = {_IGNORED_LIST: b'"@', _DIRECT: b'"!', "m.tag": b'":'}

#: The memberships of rooms that a user may forget.
LEFT = ("leave", "ban")


class SyncUser:
    """A user in memory.

    Invariant: every room with updates after `changes_from` is in `changed`, the latest at the end.
    A `seq` counts the rows that this process has applied. It has no meaning in another process.
    """

    def __init__(self, user_id: UserId, switches: RuleSwitches = ALL_OFF) -> None:
        self.user_id = user_id
        #: Its position is that of the last change of the rules. Changes of the ignore list do not move it.
        self.push_rules = PushRulesRecord()
        self.memberships: dict[RoomId, RoomMembership] = {}
        #: True if the membership of a left room changed, which the user may have forgotten. No stream has forgetting.
        self.may_have_forgotten = False
        self.account_data: dict[RoomId, dict[str, AccountDataRecord]] = {}
        self.devices = UserDevices()
        #: Unread counts by room id, of the rooms that a response has counted.
        self.unread: dict[RoomId, UnreadRoom] = {}
        #: The seq of each room's last update.
        self.changed: OrderedDict[RoomId, int] = OrderedDict()
        self.changes_from = 0
        #: Grows with each update. A request compares it to notice updates between building a response and waiting.
        self.version = 0
        #: The seq of the last presence change that woke the user.
        self.presence_changed = 0
        #: The seq of the last change of the user's thread subscriptions.
        self.subscriptions_changed = 0
        self._bytes = _USER_BYTES + text_size(user_id)  # without `devices`
        #: What the user counts in the size of the cache.
        self.counted_bytes = 0
        self._switches = switches
        self._issued: OrderedDict[str, int] = OrderedDict()
        self._tags: dict[RoomId, tuple[AccountDataRecord, frozenset[str]]] = {}

    def set_membership(self, membership: RoomMembership) -> None:
        """Store a membership from Postgres or from a row, unless a later one of the room is known."""
        known = self.memberships.get(membership.room_id)
        if known is None:
            self._bytes += _MEMBERSHIP_BYTES + text_size(membership.room_id) + text_size(membership.sender)
        if known is None or known.ordinal <= membership.ordinal:
            self.memberships[membership.room_id] = membership

    def set_account_data(self, record: AccountDataRecord) -> None:
        of_room = self.account_data.get(record.room_id)
        if of_room is None:
            of_room = self.account_data[record.room_id] = {}
            self._bytes += _ACCOUNT_DATA_ROOM_BYTES + text_size(record.room_id)
        known = of_room.get(record.type)
        if known is not None and known.position >= record.position:
            return
        if known is not None:
            self._bytes -= _account_data_size(known)
        self._bytes += _account_data_size(record)
        of_room[record.type] = record

    def set_push_rules(self, record: PushRulesRecord) -> bool:
        """Store the user's changes to the push rules. Return True if the rules differ from before."""
        known = self.push_rules
        if record.position <= known.position or record.rules == known.rules:
            return False
        self._bytes += text_size(record.rules) - text_size(known.rules)
        self.push_rules = replace(record, ignored=())  # account data has them too
        return True

    def get_ruleset(self) -> dict[str, Any]:
        """Return all push rules of the user, in the form of GET /pushrules/."""
        return full_ruleset(changes_from_json(self.push_rules.rules), self.user_id, self._switches)

    def note_change(self, room_id: RoomId, seq: int) -> None:
        self.changed[room_id] = seq
        self.changed.move_to_end(room_id)
        self.version += 1

    def note_token(self, token: str, seq: int) -> None:
        """Remember that a response with this token covers everything up to `seq`."""
        if token not in self._issued:
            self._bytes += _TOKEN_BYTES
        self._issued[token] = seq
        self._issued.move_to_end(token)
        if len(self._issued) > _ISSUED_TOKENS:
            self._issued.popitem(last=False)
            self._bytes -= _TOKEN_BYTES

    def seq_of(self, token: str) -> int | None:
        """Return the seq that a token covers; None for a token that this process does not remember."""
        seq = self._issued.get(token)
        return seq if seq is not None and seq >= self.changes_from else None

    def changed_since(self, seq: int) -> list[RoomId]:
        """Return the rooms with updates after `seq`, the latest first. GLOBAL may be among them."""
        rooms = []
        for room_id in reversed(self.changed):
            if self.changed[room_id] <= seq:
                break
            rooms.append(room_id)
        return rooms

    def hides_invites_of(self, sender: UserId) -> bool:
        """Return True if invitations by this sender are hidden from the user.

        Spec: client-server API, "Invite permission", "Ignoring users".
        """
        record = self.account_data.get(GLOBAL, {}).get("m.invite_permission_config")
        if record is not None and self._invites_of is not record:
            self._invites_of, self._blocks_invites = record, blocks_invites(record.json)
        return sender in self.ignored_users or (record is not None and self._blocks_invites)

    def shown_membership(self, room_id: RoomId) -> RoomMembership:
        """Return the user's membership as shown to them: "leave" in place of a hidden invitation."""
        membership = self.memberships[room_id]
        if membership.membership == "invite" and self.hides_invites_of(membership.sender):
            return replace(membership, membership="leave", ordinal=membership.ordinal - 1)
        return membership

    @property
    def ignored_users(self) -> frozenset[UserId]:
        """The users in m.ignored_user_list. Spec: client-server API, "Ignoring users"."""
        record = self.account_data.get(GLOBAL, {}).get(_IGNORED_LIST)
        if record is None or record.json is None:
            return frozenset()
        if self._ignored_of is not record:
            self._ignored_of = record
            self._ignored = frozenset(ignored_in(record.json))
        return self._ignored

    @property
    def direct_rooms(self) -> frozenset[RoomId]:
        """The rooms in m.direct, whatever its shape. Spec: client-server API, "Direct Messaging"."""
        record = self.account_data.get(GLOBAL, {}).get(_DIRECT)
        if record is None or record.json is None:
            return frozenset()
        if self._direct_of is not record:
            self._direct_of = record
            self._direct = frozenset(
                RoomId(room_id)
                for room_ids in _object(record).values()
                if isinstance(room_ids, list)
                for room_id in room_ids
                if isinstance(room_id, str)
            )
        return self._direct

    def tags_of(self, room_id: RoomId) -> frozenset[str]:
        """Return the user's tags of a room. Spec: client-server API, "Room Tagging"."""
        record = self.account_data.get(room_id, {}).get("m.tag")
        if record is None or record.json is None:
            return frozenset()
        known = self._tags.get(room_id)
        if known is None or known[0] is not record:
            tags = _object(record).get("tags")
            known = self._tags[room_id] = record, frozenset(tags) if isinstance(tags, dict) else frozenset()
        return known[1]

    def account(self, difference_bytes: int) -> None:
        """Add to the size, or subtract from it, for what others keep with the user: unread counts."""
        self._bytes += difference_bytes

    @property
    def size_bytes(self) -> int:
        """The memory that the user takes."""
        return self._bytes + self.devices.size_bytes

    _ignored_of: AccountDataRecord | None = None
    _ignored: frozenset[UserId] = frozenset()
    _invites_of: AccountDataRecord | None = None
    _blocks_invites = False
    _direct_of: AccountDataRecord | None = None
    _direct: frozenset[RoomId] = frozenset()


def _object(record: AccountDataRecord) -> Mapping[str, Any]:
    content = orjson.loads(record.json or b"{}")
    return content if isinstance(content, dict) else {}


def _account_data_size(record: AccountDataRecord) -> int:
    """Return how much memory an entry takes, decoded or not."""
    json = record.json or b""
    mark = _DECODED.get(record.type)
    decoded = 0 if mark is None else _DECODED_BYTES * json.count(mark)
    return _ACCOUNT_DATA_BYTES + optional_size(record.type, record.json) + decoded
