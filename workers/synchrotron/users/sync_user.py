"""PURE: one user who syncs here: his rooms and account data, and which of his rooms have news."""

from collections import OrderedDict
from dataclasses import replace
from typing import Any

from shared.core.push_rules import ALL_OFF, RuleSwitches, changes_from_json, full_ruleset
from shared.core.unread import UnreadRoom
from shared.storage.push.rules import PushRulesRecord
from shared.storage.rooms.memberships import RoomMembership
from shared.storage.user_data.account_data import AccountDataRecord, blocks_invites, ignored_in
from workers.synchrotron.users.user_devices import UserDevices

#: Stands among the changed rooms for what belongs to no room: global account data.
GLOBAL = ""
_ISSUED_TOKENS = 32  # of the latest answers, all devices together; an older token only costs more
_MEMBERSHIP_BYTES = 600
_ACCOUNT_DATA_BYTES = 500


class SyncUser:
    """Invariant: every room with news after number `changes_from` is in `changed`, the latest at the end.

    Numbers (`seq`) count the rows that this process has applied; they mean nothing elsewhere. version: grows with
    each piece of news, so that a request that is about to wait can see that something came meanwhile.
    """

    def __init__(self, user_id: str, switches: RuleSwitches = ALL_OFF) -> None:
        self.user_id = user_id
        #: Its position is that of the last change of the rules, not of whom the user ignores.
        self.push_rules = PushRulesRecord()
        self.memberships: dict[str, RoomMembership] = {}
        self.account_data: dict[str, dict[str, AccountDataRecord]] = {}
        self.devices = UserDevices()
        #: What is unread, by room id: of rooms that an answer has counted.
        self.unread: dict[str, UnreadRoom] = {}
        self.changed: OrderedDict[str, int] = OrderedDict()
        self.changes_from = 0
        self.version = 0
        #: Number of the last change of somebody's presence that was worth waking him.
        self.presence_news = 0
        #: Number of the last change of his thread subscriptions.
        self.subscriptions_changed = 0
        self.size_bytes = 2_000
        self._switches = switches
        self._issued: OrderedDict[str, int] = OrderedDict()

    def set_membership(self, membership: RoomMembership) -> None:
        """Take in a membership, from Postgres or from a row; the later in the room stays."""
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
            self.size_bytes -= _ACCOUNT_DATA_BYTES + len(known.json or b"")
        self.size_bytes += _ACCOUNT_DATA_BYTES + len(record.json or b"")
        of_room[record.type] = record

    def set_push_rules(self, record: PushRulesRecord) -> bool:
        """Take in what the user changed of the push rules; return whether that is news."""
        known = self.push_rules
        if record.position <= known.position:
            return False
        if record.rules == known.rules:
            self.push_rules = replace(known, ignored=record.ignored)
            return False
        self.size_bytes += len(record.rules) - len(known.rules)
        self.push_rules = record
        return True

    def get_ruleset(self) -> dict[str, Any]:
        """Return all push rules of the user, as GET /pushrules/ answers them."""
        return full_ruleset(changes_from_json(self.push_rules.rules), self.user_id, self._switches)

    def note_change(self, room_id: str, seq: int) -> None:
        self.changed[room_id] = seq
        self.changed.move_to_end(room_id)
        self.version += 1

    def note_token(self, token: str, seq: int) -> None:
        """Remember that an answer with this token told everything up to `seq`."""
        self._issued[token] = seq
        self._issued.move_to_end(token)
        if len(self._issued) > _ISSUED_TOKENS:
            self._issued.popitem(last=False)

    def seq_of(self, token: str) -> int | None:
        """Return up to which number a token of ours tells everything; None when that isn't known (any more)."""
        seq = self._issued.get(token)
        return seq if seq is not None and seq >= self.changes_from else None

    def changed_since(self, seq: int) -> list[str]:
        """Return the rooms with news after `seq`, perhaps with GLOBAL among them, the latest first."""
        rooms = []
        for room_id in reversed(self.changed):
            if self.changed[room_id] <= seq:
                break
            rooms.append(room_id)
        return rooms

    def hides_invites_of(self, sender: str) -> bool:
        """Return whether the user is told nothing of an invite by this sender.

        Spec: client-server API, "Invite permission", "Ignoring users".
        """
        record = self.account_data.get(GLOBAL, {}).get("m.invite_permission_config")
        return sender in self.ignored_users or (record is not None and blocks_invites(record.json))

    def told_membership(self, room_id: str) -> RoomMembership:
        """Return the user's membership as far as he is told of it: before an invite that is hidden from him he had
        left, if he was in the room at all.
        """
        membership = self.memberships[room_id]
        if membership.membership == "invite" and self.hides_invites_of(membership.sender):
            return replace(membership, membership="leave", ordinal=membership.ordinal - 1)
        return membership

    @property
    def ignored_users(self) -> frozenset[str]:
        """Spec: client-server API, "Ignoring users"."""
        record = self.account_data.get(GLOBAL, {}).get("m.ignored_user_list")
        if record is None or record.json is None:
            return frozenset()
        if self._ignored_of is not record:
            self._ignored_of = record
            self._ignored = frozenset(ignored_in(record.json))
        return self._ignored

    _ignored_of: AccountDataRecord | None = None
    _ignored: frozenset[str] = frozenset()
