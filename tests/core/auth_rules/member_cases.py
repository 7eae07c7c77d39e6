"""Cases of the rules about joining, leaving, banning and knocking."""

from collections.abc import Mapping
from typing import Any

from shared.core.identifiers import UserId
from tests.core.auth_rules.case import Attempt, case
from tests.core.rooms import ALICE, BOB, CAROL, DAVE, Room

_UNKNOWN_MEMBERSHIPS: tuple[Any, ...] = ("knocked", "", None, 1, [])
_NO_USERS: tuple[Any, ...] = (None, 1, [], "", "alice", ":")
NO_EVENT = None  # a user without a member event
_BEFORE: tuple[str | None, ...] = (NO_EVENT, "leave", "knock")


def room_with(version: str, join_rule: Any = None, members: Mapping[UserId, str | None] | None = None) -> Room:
    """Return Alice's room with these memberships and this join rule, None for no join rules event."""
    room = Room(version)
    if join_rule is not None:
        room.join_rule(join_rule)
    for user_id, membership in (members or {}).items():
        if membership is not NO_EVENT:
            room.member(user_id, membership)
    return room


def change(room: Room, sender: UserId, user_id: UserId, membership: Any, **content: Any) -> Attempt:
    """The sender changes the user's membership."""
    return Attempt(room, room.make("m.room.member", sender, {"membership": membership, **content}, user_id))


def users(room: Room, levels: Mapping[str, int]) -> dict[str, int]:
    """Return `users` of power levels, with Alice if the version allows naming her."""
    return {**levels} if room.version.creators_outrank_all else {ALICE: 100, **levels}


@case("member.form")
def _(version: str, broken: bool) -> Attempt:
    room = room_with(version, "public")
    return Attempt(room, room.make("m.room.member", BOB, {"membership": "join"}, None if broken else BOB))


@case("member.form")
def _(version: str, broken: bool) -> Attempt:
    room = room_with(version, "public")
    return Attempt(room, room.make("m.room.member", BOB, {} if broken else {"membership": "join"}, BOB))


def _unknown(membership: Any, *, last: int = 12) -> None:
    @case("member.unknown", last=last)
    def _(version: str, broken: bool) -> Attempt:
        return change(room_with(version, "public"), BOB, BOB, membership if broken else "join")


for _membership in _UNKNOWN_MEMBERSHIPS:
    _unknown(_membership)
_unknown("knock", last=6)


# --- joins ---------------------------------------------------------------------------------------------------


@case("join.first", denied_by="join.otherwise")
def _(version: str, broken: bool) -> Attempt:
    room = Room(version)
    newest = room.events[-1]
    del room.state["m.room.member", ALICE]
    prev = [newest if broken else room.create]
    return Attempt(room, room.make("m.room.member", ALICE, {"membership": "join"}, ALICE, prev=prev))


@case("join.first", denied_by="join.otherwise")
def _(version: str, broken: bool) -> Attempt:
    """Only after the create event alone, not after several events."""
    room = Room(version)
    newest = room.events[-1]
    del room.state["m.room.member", ALICE]
    prev = [room.create, *([newest] if broken else [])]
    return Attempt(room, room.make("m.room.member", ALICE, {"membership": "join"}, ALICE, prev=prev))


@case("join.first", denied_by="join.otherwise")
def _(version: str, broken: bool) -> Attempt:
    room = Room(version)
    user = BOB if broken else ALICE
    del room.state["m.room.member", ALICE]
    return Attempt(room, room.make("m.room.member", user, {"membership": "join"}, user, prev=[room.create]))


def _first_join_beside_named_creator(*, first: int, last: int, named_is_creator: bool) -> None:
    """Alice sends the create event, which names Dave as the creator. That counts up to version 10 only."""

    @case("join.first", denied_by="join.otherwise", first=first, last=last)
    def _(version: str, broken: bool) -> Attempt:
        room = Room(version)
        room.room_id = None if room.version.room_id_is_create_hash else room.room_id
        room.create = room.make("m.room.create", ALICE, {"creator": DAVE}, "", prev=[])
        room.room_id, room.state = room.create.room_id, {("m.room.create", ""): room.create}
        user = DAVE if named_is_creator != broken else ALICE
        return Attempt(room, room.make("m.room.member", user, {"membership": "join"}, user, prev=[room.create]))


_first_join_beside_named_creator(first=1, last=10, named_is_creator=True)
_first_join_beside_named_creator(first=11, last=12, named_is_creator=False)


@case("join.other")
def _(version: str, broken: bool) -> Attempt:
    return change(room_with(version, "public"), ALICE if broken else BOB, BOB, "join")


@case("join.banned")
def _(version: str, broken: bool) -> Attempt:
    return change(room_with(version, "public", {BOB: "ban" if broken else "leave"}), BOB, BOB, "join")


def _invited(rule: Any, invited: str, other: str | None, *, first: int = 1) -> None:
    """Broken: `other` instead of a membership that allows the join."""

    @case("join.invited", denied_by="join.otherwise", first=first)
    def _(version: str, broken: bool) -> Attempt:
        return change(room_with(version, rule, {BOB: other if broken else invited}), BOB, BOB, "join")


for _rule, _first in (("invite", 1), ("knock", 7), (None, 1), (1, 1)):  # no event, or no string in it, means invite
    for _current in ("invite", "join"):
        for _other in (NO_EVENT, "leave", "knock"):
            _invited(_rule, _current, _other, first=_first)


def _closed(rule: str, *, last: int = 12) -> None:
    """A join rule that the version does not know allows no joins, not even those of members."""

    @case("join.otherwise", last=last)
    def _(version: str, broken: bool) -> Attempt:
        return change(room_with(version, rule if broken else "invite", {BOB: "invite"}), BOB, BOB, "join")


_closed("private")
_closed("")
_closed("knock", last=6)
_closed("restricted", last=7)
_closed("knock_restricted", last=9)


@case("join.public", denied_by="join.otherwise")
def _(version: str, broken: bool) -> Attempt:
    return change(room_with(version, "invite" if broken else "public"), BOB, BOB, "join")


# --- restricted joins ----------------------------------------------------------------------------------------


def _restricted(version: str, rule: str, *, bob: str | None = None, **content: Any) -> Attempt:
    """Bob joins a room in which Alice and Carol may invite and Dave may not. Carol has left."""
    room = room_with(version, rule, {BOB: bob, CAROL: "leave", DAVE: "join"})
    room.power_levels(invite=50, users=users(room, {CAROL: 50, DAVE: 49}))
    content = {"membership": "join", **content}
    authoriser = content.get("join_authorised_via_users_server")
    server_name = authoriser.partition(":")[2] if isinstance(authoriser, str) else None
    return Attempt(room, room.make("m.room.member", BOB, content, BOB, server_name=server_name))


@case("authorised.signed", first=8)
def _(version: str, broken: bool) -> Attempt:
    room = room_with(version, "restricted")
    content = {"membership": "join", "join_authorised_via_users_server": ALICE}
    server_name = "b.example" if broken else "a.example"
    return Attempt(room, room.make("m.room.member", BOB, content, BOB, server_name=server_name))


@case("authorised.signed", first=8)
def _(version: str, broken: bool) -> Attempt:
    """For every join rule, and for every membership."""
    room = room_with(version, members={BOB: "join"})
    content = {"membership": "leave", "join_authorised_via_users_server": ALICE}
    server_name = "b.example" if broken else "a.example"
    return Attempt(room, room.make("m.room.member", BOB, content, BOB, server_name=server_name))


def _no_user(value: Any) -> None:
    @case("authorised.signed", first=8)
    def _(version: str, broken: bool) -> Attempt:
        content = {"join_authorised_via_users_server": value} if broken else {}
        return change(room_with(version, "public"), BOB, BOB, "join", **content)


for _value in _NO_USERS:
    _no_user(_value)


def _restricted_cases(rule: str, first: int) -> None:
    authorised = "join_authorised_via_users_server"

    @case("restricted.invited", denied_by="restricted.authorised", first=first)
    def _(version: str, broken: bool) -> Attempt:
        return _restricted(version, rule, bob="leave" if broken else "invite")

    @case("restricted.invited", denied_by="restricted.authorised", first=first)
    def _(version: str, broken: bool) -> Attempt:
        return _restricted(version, rule, bob="knock" if broken else "join")

    @case("restricted.authorised", first=first)
    def _(version: str, broken: bool) -> Attempt:
        return _restricted(version, rule, **({} if broken else {authorised: ALICE}))

    @case("restricted.authorised", first=first)
    def _(version: str, broken: bool) -> Attempt:
        """Without the invite level."""
        return _restricted(version, rule, **{authorised: DAVE if broken else ALICE})

    @case("restricted.authorised", first=first)
    def _(version: str, broken: bool) -> Attempt:
        """Not in the room."""
        attempt = _restricted(version, rule, **{authorised: CAROL})
        if not broken:
            attempt.room.member(CAROL, "join")
        return attempt

    @case("restricted.otherwise", denied_by="restricted.authorised", first=first)
    def _(version: str, broken: bool) -> Attempt:
        return _restricted(version, rule, **({} if broken else {authorised: ALICE}))


_restricted_cases("restricted", 8)
_restricted_cases("knock_restricted", 10)


# --- leaving, kicks and bans ---------------------------------------------------------------------------------


def _leaves(before: str, other: str | None, *, first: int = 1, last: int = 12) -> None:
    @case("leave.own", first=first, last=last)
    def _(version: str, broken: bool) -> Attempt:
        return change(room_with(version, members={BOB: other if broken else before}), BOB, BOB, "leave")


for _before in ("invite", "join"):
    for _other in (NO_EVENT, "leave", "ban", "knocked"):
        _leaves(_before, _other)
_leaves("join", "knock", last=6)
_leaves("knock", "leave", first=7)


def _by_carol(version: str, membership: str, *, carol: str = "join", bob: str = "join", **levels: Any) -> Attempt:
    """Carol, who has 50, kicks, unbans or bans Bob, who has 49."""
    room = room_with(version, members={CAROL: carol, BOB: bob})
    named = users(room, {CAROL: 50, BOB: levels.pop("bob_level", 49)})
    room.power_levels(users=named, **levels)
    return change(room, CAROL, BOB, membership)


for _carol in ("leave", "invite"):

    @case("leave.sender")
    def _(version: str, broken: bool, carol: str = _carol) -> Attempt:
        return _by_carol(version, "leave", carol=carol if broken else "join")

    @case("ban.sender")
    def _(version: str, broken: bool, carol: str = _carol) -> Attempt:
        return _by_carol(version, "ban", carol=carol if broken else "join")


@case("leave.unban")
def _(version: str, broken: bool) -> Attempt:
    return _by_carol(version, "leave", bob="ban", ban=51 if broken else 50)


@case("leave.unban")
def _(version: str, broken: bool) -> Attempt:
    return _by_carol(version, "leave", bob="ban" if broken else "join", ban=51)


for _name in ("leave.kick", "leave.otherwise"):
    for _target in ("join", "invite", "ban", "leave"):

        @case(_name, denied_by="leave.otherwise")
        def _(version: str, broken: bool, target: str = _target) -> Attempt:
            return _by_carol(version, "leave", bob=target, kick=51 if broken else 50)

    @case(_name, denied_by="leave.otherwise")
    def _(version: str, broken: bool) -> Attempt:
        return _by_carol(version, "leave", bob_level=50 if broken else 49)


for _name in ("ban.level", "ban.otherwise"):
    for _target in ("join", "invite", "ban", "leave"):

        @case(_name, denied_by="ban.otherwise")
        def _(version: str, broken: bool, target: str = _target) -> Attempt:
            return _by_carol(version, "ban", bob=target, ban=51 if broken else 50)

    @case(_name, denied_by="ban.otherwise")
    def _(version: str, broken: bool) -> Attempt:
        return _by_carol(version, "ban", bob_level=50 if broken else 49)


def _creators_outrank(membership: str, denied_by: str) -> None:
    """No level reaches a creator's infinite power, nor does another creator's power."""

    @case(f"{membership}.otherwise", denied_by=denied_by, first=12)
    def _(version: str, broken: bool) -> Attempt:
        room = Room(version, {"additional_creators": [DAVE] if broken else []})
        room.member(BOB, "join")
        room.member(DAVE, "join")
        room.power_levels(users={BOB: 2**53 - 1})
        return change(room, BOB, DAVE, membership)

    @case(f"{membership}.otherwise", denied_by=denied_by, first=12)
    def _(version: str, broken: bool) -> Attempt:
        room = Room(version, {"additional_creators": [DAVE] if broken else []})
        room.member(DAVE, "join")
        room.power_levels(users={} if broken else {DAVE: 2**53 - 1})
        return change(room, ALICE, DAVE, membership)


_creators_outrank("leave", "leave.otherwise")
_creators_outrank("ban", "ban.otherwise")


# --- knocks --------------------------------------------------------------------------------------------------


def _knock_rule(rule: Any, open_rule: str, *, first: int = 7, last: int = 12) -> None:
    @case("knock.rule", first=first, last=last)
    def _(version: str, broken: bool) -> Attempt:
        return change(room_with(version, rule if broken else open_rule), BOB, BOB, "knock")


for _rule in (None, "public", "invite", "restricted", "private", 1):
    _knock_rule(_rule, "knock")
_knock_rule("knock_restricted", "knock", last=9)
_knock_rule("restricted", "knock_restricted", first=10)


@case("knock.other", first=7)
def _(version: str, broken: bool) -> Attempt:
    return change(room_with(version, "knock"), ALICE if broken else BOB, BOB, "knock")


for _name in ("knock.membership", "knock.otherwise"):
    for _before_knock in _BEFORE:
        for _other in ("ban", "invite", "join"):

            @case(_name, denied_by="knock.otherwise", first=7)
            def _(version: str, broken: bool, before: str | None = _before_knock, other: str = _other) -> Attempt:
                return change(room_with(version, "knock", {BOB: other if broken else before}), BOB, BOB, "knock")
