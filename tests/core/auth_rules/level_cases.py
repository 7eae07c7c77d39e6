"""Cases of the rules that need a joined sender: levels, state keys, power levels, redactions."""

from typing import Any

from shared.core.events.readers.power_levels import DEFAULT_LEVELS
from tests.core.auth_rules.case import Attempt, case
from tests.core.auth_rules.member_cases import room_with, users
from tests.core.rooms import ALICE, BOB, CAROL, Room

_NO_LEVELS: tuple[Any, ...] = (True, None, [], {})
_NO_MAPS: tuple[Any, ...] = ("abc", None, [], 1, {"t": "50"}, {"t": True}, {"t": None})
_NO_USER_LEVELS: tuple[Any, ...] = (
    *(None, [], 1, {"bob": 50}, {"": 1}),
    *({BOB: "abc"}, {BOB: None}, {BOB: True}, {BOB: []}, {BOB: ""}),
)

for _current in (None, "invite", "leave", "ban"):

    @case("joined")
    def _(version: str, broken: bool, current: str | None = _current) -> Attempt:
        room = room_with(version, members={BOB: current if broken else "join"})
        return Attempt(room, room.make("m.room.message", BOB, {}))


@case("joined", first=6)
def _(version: str, broken: bool) -> Attempt:
    """Aliases are state like any other."""
    room = room_with(version, members={BOB: "leave" if broken else "join"})
    room.power_levels(state_default=0)
    return Attempt(room, room.make("m.room.aliases", BOB, {}, "anything"))


@case("third_party_invite.level")
def _(version: str, broken: bool) -> Attempt:
    """Only the invite level counts, state_default does not."""
    room = room_with(version, members={BOB: "join"})
    room.power_levels(invite=1 if broken else 0, state_default=50)
    return Attempt(room, room.make("m.room.third_party_invite", BOB, {}, "token"))


def _bobs(version: str, event_type: str, state_key: str | None, **levels: Any) -> Attempt:
    """An event of Bob's, who has 0."""
    room = room_with(version, members={BOB: "join"})
    room.power_levels(**levels)
    return Attempt(room, room.make(event_type, BOB, {}, state_key))


@case("level")
def _(version: str, broken: bool) -> Attempt:
    return _bobs(version, "m.room.message", None, events={"m.room.message": 1 if broken else 0})


@case("level")
def _(version: str, broken: bool) -> Attempt:
    return _bobs(version, "m.room.message", None, events_default=1 if broken else 0)


@case("level")
def _(version: str, broken: bool) -> Attempt:
    return _bobs(version, "m.room.topic", "", state_default=1 if broken else 0)


@case("level")
def _(version: str, broken: bool) -> Attempt:
    """state_default is 50 unless it is set."""
    return _bobs(version, "m.room.topic", "", users_default=49 if broken else 50)


@case("level")
def _(version: str, broken: bool) -> Attempt:
    """Without power levels state needs 50, messages need 0, and only a creator has any power."""
    room = room_with(version, members={BOB: "join"})
    return Attempt(room, room.make("m.room.topic", BOB if broken else ALICE, {}, ""))


@case("level", first=12)
def _(version: str, broken: bool) -> Attempt:
    """No level is above a creator's."""
    room = Room(version, {"additional_creators": [] if broken else [BOB]})
    room.member(BOB, "join")
    room.power_levels(state_default=2**53 - 1)
    return Attempt(room, room.make("m.room.topic", BOB, {}, ""))


for _state_key in (CAROL, "@", "@bob:b.example.org"):

    @case("state_key")
    def _(version: str, broken: bool, state_key: str = _state_key) -> Attempt:
        return _bobs(version, "m.any", state_key if broken else BOB, state_default=0)

    @case("state_key")
    def _(version: str, broken: bool, state_key: str = _state_key) -> Attempt:
        return _bobs(version, "m.any", state_key if broken else f"_{state_key}", state_default=0)


# --- power levels --------------------------------------------------------------------------------------------


def _values(rule: str, bad: Any, good: Any, place: str, *, first: int = 1, last: int = 12) -> None:
    """Alice sets the room's first power levels, with `bad` or `good` at the path."""

    @case(rule, first=first, last=last)
    def _(version: str, broken: bool) -> Attempt:
        room = Room(version)
        return Attempt(room, room.make("m.room.power_levels", ALICE, {place: bad if broken else good}, ""))


for _level in DEFAULT_LEVELS:
    _values("power_levels.integers", "50", 50, _level, first=10)
for _bad in _NO_LEVELS:
    _values("power_levels.integers", _bad, 50, "ban", first=10)
for _place in ("events", "notifications"):
    for _bad in _NO_MAPS:
        _values("power_levels.maps", _bad, {"t": 50}, _place, first=10)
for _bad in _NO_USER_LEVELS:
    _values("power_levels.users", _bad, {BOB: 50}, "users")
_values("power_levels.users", {"bob": 50}, {"@Odd One:x": 50}, "users")
_values("power_levels.users", {BOB: "50.5"}, {BOB: " +050 "}, "users", last=9)
_values("power_levels.users", {BOB: "50.9"}, {BOB: 50.9}, "users", last=5)  # later such an event has no valid form
_values("power_levels.users", {BOB: "50"}, {BOB: 50}, "users", first=10)

# Versions 1 to 9 have no rule for the other places. Values that cannot be read there cannot be compared, as the rules
# for changes require. They are refused under the number of the whole rule.
_values("power_levels", "abc", " +050 ", "ban", last=9)
_values("power_levels", "abc", 50.9, "ban", last=5)
_values("power_levels", {"t": "abc"}, {"t": " 50 "}, "events", last=9)
_values("power_levels", {"t": True}, {"t": 50.9}, "events", last=5)
for _bad in (True, None, []):
    _values("power_levels", _bad, 50, "ban", last=9)
    _values("power_levels", {"t": _bad}, {"t": 50}, "events", last=9)
    _values("power_levels", {"t": _bad}, {"t": 50}, "notifications", first=6, last=9)


@case("power_levels.creators", first=12)
def _(version: str, broken: bool) -> Attempt:
    room = Room(version)
    return Attempt(room, room.make("m.room.power_levels", ALICE, {"users": {ALICE if broken else BOB: 1}}, ""))


@case("power_levels.creators", first=12)
def _(version: str, broken: bool) -> Attempt:
    room = Room(version, {"additional_creators": [BOB]})
    return Attempt(room, room.make("m.room.power_levels", ALICE, {"users": {BOB if broken else CAROL: 1}}, ""))


@case("power_levels.first", denied_by="properties.new", last=11)
def _(version: str, broken: bool) -> Attempt:
    """With earlier levels Alice, who has 100, could not set these."""
    room = Room(version)
    if broken:
        room.power_levels()
    content = {"users": {ALICE: 100, BOB: 50}, "ban": 101}
    return Attempt(room, room.make("m.room.power_levels", ALICE, content, ""))


@case("power_levels.first", denied_by=None, first=12)
def _(version: str, broken: bool) -> Attempt:
    """Only a creator gets as far as this rule, and no level is above a creator's, so no later rule could deny it."""
    room = Room(version)
    return Attempt(room, room.make("m.room.power_levels", ALICE, {"users": {BOB: 1000}, "ban": 1000}, ""))


def _changed(version: str, change: dict[str, Any], before: dict[str, Any] | None = None) -> Attempt:
    """Bob, who has 60 like @equal, changes the power levels. change: None removes a property."""
    room = room_with(version, members={BOB: "join"})
    people = {BOB: 60, "@equal:x": 60, "@low:x": 1, "@high:x": 61}
    levels: dict[str, Any] = {"users": users(room, people), "state_default": 60, **(before or {})}
    room.power_levels(**levels)
    if "users" in change:
        kept = {**levels["users"], **change["users"]}
        change = {**change, "users": {user_id: level for user_id, level in kept.items() if level is not None}}
    content = {name: value for name, value in {**levels, **change}.items() if value is not None}
    return Attempt(room, room.make("m.room.power_levels", BOB, content, ""))


def _old_and_new(rule: str, old: dict[str, Any], bad: dict[str, Any], good: dict[str, Any], *, first: int = 1) -> None:
    @case(rule, first=first)
    def _(version: str, broken: bool) -> Attempt:
        return _changed(version, bad if broken else good, old)


for _level in DEFAULT_LEVELS:
    if _level not in ("state_default", "users_default"):  # at 61 Bob could not send it, or would be raised
        _old_and_new("properties.old", {_level: 61}, {_level: 10}, {_level: 61})  # lowered
        _old_and_new("properties.old", {_level: 61}, {_level: None}, {})  # removed
    _old_and_new("properties.new", {_level: 10}, {_level: 61}, {_level: 60})  # changed
    if _level != "state_default":
        _old_and_new("properties.new", {}, {_level: 61}, {_level: 60})  # added


def _from(rule: str, bad: dict[str, Any], good: dict[str, Any], change: dict[str, Any], *, first: int = 1) -> None:
    """The change is the same in both, but the levels before it differ."""

    @case(rule, first=first)
    def _(version: str, broken: bool) -> Attempt:
        return _changed(version, change, bad if broken else good)


for _level in ("ban", "users_default"):
    _from("properties.old", {_level: 61}, {_level: 60}, {_level: 10})
for _field, _first in (("events", 1), ("notifications", 6)):
    _from("old_entries.level", {_field: {"t": 61}}, {_field: {"t": 60}}, {_field: {}}, first=_first)


@case("properties.old")
def _(version: str, broken: bool) -> Attempt:
    """state_default, which the entry for the type overrides."""
    entry = {"events": {"m.room.power_levels": 0}}
    return _changed(version, {"state_default": 10} if broken else {}, {"state_default": 61, **entry})


@case("properties.old")
def _(version: str, broken: bool) -> Attempt:
    """users_default, which does not apply to named users."""
    return _changed(version, {"users_default": 10} if broken else {}, {"users_default": 61})


for _field, _first in (("events", 1), ("notifications", 6)):
    _high, _low = {_field: {"t": 61}}, {_field: {"t": 1}}
    _old_and_new("old_entries.level", _high, {_field: {"t": 1}}, {_field: {"t": 61}}, first=_first)
    _old_and_new("old_entries.level", _high, {_field: {}}, {}, first=_first)
    _old_and_new("old_entries.level", _high, {_field: None}, {}, first=_first)
    _old_and_new("old_entries.level", _high, {_field: {"t": 62}}, {}, first=_first)
    _old_and_new("new_entries.level", _low, {_field: {"t": 61}}, {_field: {"t": 60}}, first=_first)
    _old_and_new("new_entries.level", _low, {_field: {"t": 1, "u": 61}}, {_field: {"t": 1, "u": 60}}, first=_first)
    _old_and_new("new_entries.level", {}, {_field: {"u": 61}}, {_field: {"u": 60}}, first=_first)


@case("power_levels.otherwise", denied_by=None, last=5)
def _(version: str, broken: bool) -> Attempt:
    """The right to notify everyone is not checked."""
    return _changed(version, {"notifications": {"room": 99}}, {"notifications": {"room": 70}})


for _user in ("@equal:x", "@high:x"):
    for _new in (0, None):
        _old_and_new("old_users.level", {}, {"users": {_user: _new}}, {"users": {"@low:x": _new}})
        _old_and_new("old_users.level", {}, {"users": {_user: _new}}, {"users": {BOB: _new}})
for _user in ("@low:x", "@new:x"):
    _old_and_new("new_users.level", {}, {"users": {_user: 61}}, {"users": {_user: 60}})
_old_and_new("new_users.level", {}, {"users": {BOB: 61}}, {"users": {BOB: 59}})


@case("power_levels.otherwise", denied_by=None)
def _(version: str, broken: bool) -> Attempt:
    change = {"ban": 60, "events": {"t": 60}, "users": {"@low:x": 60, "@new:x": 60, BOB: 59}}
    return _changed(version, change, {"ban": 10, "events": {"t": 1}})


# --- redactions, and the rest --------------------------------------------------------------------------------


for _name in ("redaction.level", "redaction.otherwise"):

    @case(_name, denied_by="redaction.otherwise", last=2)
    def _(version: str, broken: bool) -> Attempt:
        room = room_with(version, members={BOB: "join"})
        target = room.add("m.room.message", ALICE, {})
        room.power_levels(redact=1 if broken else 0)
        return Attempt(room, room.make("m.room.redaction", BOB, {}, redacts=target.event_id))


@case("redaction.server", denied_by="redaction.otherwise", last=2)
def _(version: str, broken: bool) -> Attempt:
    room = room_with(version, members={BOB: "join"})
    target = room.add("m.room.message", ALICE if broken else BOB, {})
    return Attempt(room, room.make("m.room.redaction", BOB, {}, redacts=target.event_id))


@case("redaction.otherwise", last=2)
def _(version: str, broken: bool) -> Attempt:
    """A redaction that names no event has no server."""
    room = room_with(version, members={BOB: "join"})
    target = room.add("m.room.message", BOB, {})
    return Attempt(room, room.make("m.room.redaction", BOB, {}, redacts=None if broken else target.event_id))


@case("otherwise", denied_by=None)
def _(version: str, broken: bool) -> Attempt:
    room = Room(version)
    return Attempt(room, room.make("m.room.message", ALICE, {}))


@case("otherwise", denied_by=None, first=3)
def _(version: str, broken: bool) -> Attempt:
    """Redactions too: these rules do not decide if one takes effect."""
    room = room_with(version, members={BOB: "join"})
    target = room.add("m.room.message", ALICE, {})
    return Attempt(room, room.make("m.room.redaction", BOB, {}, redacts=target.event_id))
