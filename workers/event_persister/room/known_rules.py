"""The push rules and ignore lists of the users whom rooms in memory need: one object for each user, in all their rooms.

Rules are compiled when a room first needs them after a change. What a change leaves as it was is not compiled again.
"""

import weakref
from collections.abc import Callable

from shared.core.identifiers import UserId
from shared.core.push_rules import RuleSwitches, UserRules, user_rules
from shared.core.push_rules.ignored_users import IgnoredUsers

_SHORT_BYTES = 2_048  # of JSON: less than a millisecond
_USER_BYTES = 1_000
_IGNORED_BYTES = 120  # besides the id itself, with its place in the index


class KnownRules:
    """A user's rules and ignored users, with their position in the stream `push_rules`, 0 if they never changed."""

    __slots__ = ("__weakref__", "_json", "_rules", "_share", "_switches", "ignored", "position")

    def __init__(self, switches: RuleSwitches, share: "_Share") -> None:
        self._switches = switches
        self._share = share
        self._json = b""
        self._rules: tuple[bytes, UserRules] = (b"", user_rules(b"", switches))
        self.ignored: tuple[UserId, ...] = ()
        self.position = 0

    @property
    def rules(self) -> UserRules:
        """The rules, compiled."""
        compiled_of, rules = self._rules
        if compiled_of != self._json:
            rules = user_rules(self._json, self._switches, rules)
            self._rules = (self._json, rules)
            self._share.set_compiled(rules.size_bytes if self._json else 0)
        return rules

    def compile(self) -> int:
        """Compile the rules, and return the number of bytes of their JSON."""
        _ = self.rules
        return len(self._json)

    @property
    def is_ready(self) -> bool:
        """True if the rules are compiled, or so short that compiling them delays nobody."""
        return len(self._json) <= _SHORT_BYTES or self._rules[0] == self._json

    def replace(self, json: bytes, ignored: tuple[UserId, ...], position: int) -> None:
        """Take in a later version."""
        self.position = position
        if json != self._json:
            self._json = json
        if ignored != self.ignored:
            self.ignored = ignored
        self._share.set_stored(len(json), ignored)


class KnownUsers:
    """An index of users by their id. A user is dropped with the last room that needs their rules.

    ignored_users: who ignores whom, for all rooms.
    size_bytes: about how much memory the users take, each counted once and not in each room.
    """

    def __init__(self, switches: RuleSwitches) -> None:
        self.ignored_users = IgnoredUsers()
        self.size_bytes = 0
        self._switches = switches
        self._users: weakref.WeakValueDictionary[UserId, KnownRules] = weakref.WeakValueDictionary()
        self._nothing = KnownRules(switches, _Share(UserId(""), IgnoredUsers(), lambda _: None))

    @property
    def nothing(self) -> KnownRules:
        """The rules of users who never changed any."""
        return self._nothing

    def get(self, user_id: UserId) -> KnownRules | None:
        """Return a user's rules, None if no room needs them."""
        return self._users.get(user_id)

    def take(self, user_id: UserId, json: bytes, ignored: tuple[UserId, ...], position: int) -> KnownRules:
        """Return the user's rules: these, or later ones that are known."""
        known = self._users.get(user_id)
        if known is None:
            share = _Share(user_id, self.ignored_users, self._account)
            known = self._users[user_id] = KnownRules(self._switches, share)
            weakref.finalize(known, share.release).atexit = False
            known.replace(json, ignored, position)
        elif known.position < position:
            known.replace(json, ignored, position)
        return known

    def _account(self, difference_bytes: int) -> None:
        self.size_bytes += difference_bytes


class _Share:
    """What a user takes up here: memory, and places in the index of ignored users. It outlives their rules."""

    __slots__ = ("_account", "_compiled_bytes", "_ignored", "_ignored_users", "_stored_bytes", "_user_id")

    def __init__(self, user_id: UserId, ignored_users: IgnoredUsers, account: Callable[[int], None]) -> None:
        self._user_id = user_id
        self._ignored_users = ignored_users
        self._account = account
        self._ignored: tuple[UserId, ...] = ()
        self._stored_bytes = 0
        self._compiled_bytes = 0

    def set_stored(self, json_bytes: int, ignored: tuple[UserId, ...]) -> None:
        self._ignored_users.replace(self._user_id, self._ignored, ignored)
        self._ignored = ignored
        size = _USER_BYTES + json_bytes + sum(map(len, ignored)) + _IGNORED_BYTES * len(ignored)
        self._account(size - self._stored_bytes)
        self._stored_bytes = size

    def set_compiled(self, size_bytes: int) -> None:
        self._account(size_bytes - self._compiled_bytes)
        self._compiled_bytes = size_bytes

    def release(self) -> None:
        self._ignored_users.replace(self._user_id, self._ignored, ())
        self._account(-self._stored_bytes - self._compiled_bytes)
