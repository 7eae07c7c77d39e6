"""PURE: one user who syncs here: their memberships, their account data, and their rooms with updates."""

from collections import OrderedDict
from dataclasses import replace
from typing import Any

from shared.core.identifiers import RoomId, UserId
from shared.core.push_rules import ALL_OFF, RuleSwitches, changes_from_json, full_ruleset
from shared.core.rows import GLOBAL
from shared.core.unread import UnreadRoom
from shared.storage.push.rules import PushRulesRecord
from shared.storage.rooms.memberships import RoomMembership
from shared.storage.user_data.account_data import AccountDataRecord, blocks_invites, ignored_in
from workers.synchrotron.users.user_devices import UserDevices

_ISSUED_TOKENS = 32  # the latest tokens of all devices together; an older token costs more, nothing else
_MEMBERSHIP_BYTES = 600
_ACCOUNT_DATA_BYTES = 500
_IGNORED_BYTES = 150  # an ignored user in the decoded list
_IGNORED_LIST = "m.ignored_user_list"

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
        self.size_bytes = 2_000
        self._switches = switches
        self._issued: OrderedDict[str, int] = OrderedDict()

    def set_membership(self, membership: RoomMembership) -> None:
        """Store a membership from Postgres or from a row, unless a later one of the room is known."""
        known = self.memberships.get(membership.room_id)
        if known is None:
            self.size_bytes += _MEMBERSHIP_BYTES
        if known is None or known.ordinal <= membership.ordinal:
            self.memberships[membership.room_id] = membership

    def set_account_data(self, record: AccountDataRecord) -> None:
        of_room = self.account_data.setdefault(record.room_id, {})
        known = of_room.get(record.type)
        if known is not None and known.position >= record.position:
            return
        if known is not None:
            self.size_bytes -= _size_bytes(known)
        self.size_bytes += _size_bytes(record)
        of_room[record.type] = record

    def set_push_rules(self, record: PushRulesRecord) -> bool:
        """Store the user's changes to the push rules. Return True if the rules differ from before."""
        known = self.push_rules
        if record.position <= known.position or record.rules == known.rules:
            return False
        self.size_bytes += len(record.rules) - len(known.rules)
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
        self._issued[token] = seq
        self._issued.move_to_end(token)
        if len(self._issued) > _ISSUED_TOKENS:
            self._issued.popitem(last=False)

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
        return sender in self.ignored_users or (record is not None and blocks_invites(record.json))

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

    _ignored_of: AccountDataRecord | None = None
    _ignored: frozenset[UserId] = frozenset()


def _size_bytes(record: AccountDataRecord) -> int:
    """Return about how much memory an entry takes, decoded or not."""
    json = record.json or b""
    ignored = json.count(b'"@') if record.type == _IGNORED_LIST and record.room_id == GLOBAL else 0
    return _ACCOUNT_DATA_BYTES + len(json) + _IGNORED_BYTES * ignored
