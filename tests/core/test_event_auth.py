"""Authorization rules of every room version, allowed and denied. Spec: rooms/v1 to v12, "Authorisation rules"."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.errors import AuthRuleViolation
from shared.core.event_auth import auth_types_for, check_auth, check_auth_events, may_apply_redaction
from shared.core.events import Event
from shared.core.events.readers import power_levels_of
from shared.core.room_versions import ROOM_VERSIONS
from shared.core.signing import generate_signing_key, sign_json
from tests.core import json_values
from tests.core.rooms import ALICE, BOB, CAROL, DAVE, VERSIONS, Room, versions_where


def allow(room: Room, *args: Any, **kwargs: Any) -> None:
    check_auth(room.version, room.make(*args, **kwargs), room.state, room.create)


def deny(rule: str, room: Room, *args: Any, **kwargs: Any) -> None:
    """rule: the name that the failure must carry after its number."""
    with pytest.raises(AuthRuleViolation) as caught:
        check_auth(room.version, room.make(*args, **kwargs), room.state, room.create)
    assert caught.value.rule.split(" ", 1)[1] == rule
    assert caught.value.section == f"rooms/v{room.version.name}#authorisation-rules"


def membership(value: str, **more: Any) -> dict[str, Any]:
    return {"membership": value, **more}


# --- create --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERSIONS)
def test_create(name: str) -> None:
    room = Room(name)
    deny("create", room, "m.room.create", ALICE, {"creator": ALICE}, "")  # has previous events
    deny("create", room, "m.room.create", ALICE, {"creator": ALICE, "room_version": "no such"}, "", prev=[])
    deny("create", room, "m.room.create", ALICE, {"creator": ALICE, "room_version": None}, "", prev=[])


@pytest.mark.parametrize("name", versions_where(room_id_is_create_hash=False))
def test_create_is_of_the_rooms_server(name: str) -> None:
    room = Room(name)
    allow(room, "m.room.create", ALICE, {"creator": ALICE}, "", prev=[])
    deny("create", room, "m.room.create", BOB, {"creator": BOB}, "", prev=[])


@pytest.mark.parametrize("name", versions_where(creator_in_content=True))
def test_creator_is_required(name: str) -> None:
    deny("create", Room(name), "m.room.create", ALICE, {}, "", prev=[])


@pytest.mark.parametrize("name", versions_where(room_id_is_create_hash=True))
def test_create_without_room_id(name: str) -> None:
    room = Room(name)
    with_room_id = room.make("m.room.create", ALICE, {}, "", prev=[])
    assert "room_id" in with_room_id.pdu
    with pytest.raises(AuthRuleViolation, match=r"rule 1\.2 create"):
        check_auth(room.version, with_room_id, {}, with_room_id)
    no_user_ids: list[Any] = ["@a:d", [1], ["a"], {}]
    for bad in no_user_ids:
        fresh = Room(name)
        fresh.room_id = None
        deny("create", fresh, "m.room.create", ALICE, {"additional_creators": bad}, "", prev=[])
    fresh.room_id = None
    allow(fresh, "m.room.create", ALICE, {"additional_creators": [BOB]}, "", prev=[])


@pytest.mark.parametrize("name", VERSIONS)
def test_event_of_another_room(name: str) -> None:
    room, other = Room(name), Room(name, {"other": 1})
    other_create = other.create
    if not room.version.room_id_is_create_hash:
        other.room_id = "!other:a.example"
        other_create = other.make("m.room.create", ALICE, {"creator": ALICE}, "", prev=[])
    with pytest.raises(AuthRuleViolation):
        check_auth(room.version, room.make("m.room.message", ALICE, {}), room.state, other_create)


@pytest.mark.parametrize("name", VERSIONS)
def test_rooms_that_do_not_federate(name: str) -> None:
    room = Room(name, {"m.federate": False})
    room.join_rule("public")
    allow(room, "m.room.member", DAVE, membership("join"), DAVE)
    deny("federate", room, "m.room.member", BOB, membership("join"), BOB)


# --- auth events ---------------------------------------------------------------------------------------------


def _check(room: Room, event: Event, auth_events: list[Event], rejected: tuple[str, ...] = ()) -> None:
    check_auth_events(room.version, event, auth_events, rejected)


@pytest.mark.parametrize("name", VERSIONS)
def test_auth_events(name: str) -> None:
    room = Room(name)
    levels, topic = room.power_levels(), room.add("m.room.topic", ALICE, {}, "")
    event = room.make("m.room.message", ALICE, {})
    alice = room.state["m.room.member", ALICE]
    create = [room.create] if room.version.create_in_auth_events else []
    _check(room, event, [*create, levels, alice])
    _check(room, room.create, [])
    for broken, rejected, number in (
        ([*create, alice, alice], (), "1"),
        ([*create, alice, topic], (), "2"),
        ([*create, alice], (alice.event_id,), "3"),
    ):
        with pytest.raises(AuthRuleViolation) as caught:
            _check(room, event, broken, rejected)
        assert caught.value.rule == f"{3 if name == '12' else 2}.{number} auth_events"
    with pytest.raises(AuthRuleViolation):
        _check(room, event, [alice] if room.version.create_in_auth_events else [room.create, alice])
    other = Room(name, {"other": 1})
    if other.create.room_id == room.create.room_id:
        other.room_id = "!other:a.example"
    stranger = other.make("m.room.member", ALICE, membership("join"), ALICE)
    with pytest.raises(AuthRuleViolation, match="another room"):
        _check(room, event, [*create, stranger])


@pytest.mark.parametrize("name", VERSIONS)
def test_selection(name: str) -> None:
    version = ROOM_VERSIONS[name]
    create = [("m.room.create", "")] if version.create_in_auth_events else []
    common = [*create, ("m.room.power_levels", "")]

    def selected(event_type: str, state_key: str | None, content: dict[str, Any]) -> list[tuple[str, str]]:
        return auth_types_for(version, type=event_type, sender=ALICE, state_key=state_key, content=content)

    alice, bob, rules = ("m.room.member", ALICE), ("m.room.member", BOB), ("m.room.join_rules", "")
    assert selected("m.room.create", "", {}) == []
    assert selected("m.room.message", None, {}) == [*common, alice]
    assert selected("m.room.member", ALICE, membership("join")) == [*common, alice, rules]
    assert selected("m.room.member", BOB, membership("invite")) == [*common, alice, bob, rules]
    assert selected("m.room.member", ALICE, membership("knock")) == [*common, alice, rules]
    assert selected("m.room.member", BOB, membership("ban")) == [*common, alice, bob]
    signed = {"signed": {"token": "t"}}
    assert selected("m.room.member", BOB, membership("invite", third_party_invite=signed)) == [
        *common, alice, bob, rules, ("m.room.third_party_invite", "t")
    ]  # fmt: skip
    join = membership("join", join_authorised_via_users_server=CAROL)
    authoriser = [("m.room.member", CAROL)] if version.restricted else []
    assert selected("m.room.member", ALICE, join) == [*common, alice, rules, *authoriser]
    no_tokens: list[Any] = [1, [], {"signed": 1}, {"signed": {"token": 1}}]
    for odd in no_tokens:
        assert selected("m.room.member", BOB, membership("invite", third_party_invite=odd)) == [
            *common,
            alice,
            bob,
            rules,
        ]


# --- memberships ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERSIONS)
def test_first_join(name: str) -> None:
    room = Room(name)
    allow(room, "m.room.member", ALICE, membership("join"), ALICE, prev=[room.create])
    deny("member/join", room, "m.room.member", BOB, membership("join"), BOB, prev=[room.create])


@pytest.mark.parametrize("name", VERSIONS)
def test_form_of_memberships(name: str) -> None:
    room = Room(name)
    deny("member/form", room, "m.room.member", ALICE, membership("join"))
    deny("member/form", room, "m.room.member", ALICE, {}, ALICE)
    unknown: list[Any] = ["knocked", None, 1, []]
    for odd in unknown:
        deny("member/unknown", room, "m.room.member", ALICE, {"membership": odd}, ALICE)


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("current", [None, "invite", "join", "leave", "ban", "knock"])
@pytest.mark.parametrize("rule", [None, "public", "invite", "knock", "restricted", "knock_restricted", "private", 1])
def test_joins(name: str, current: str | None, rule: Any) -> None:
    room = Room(name)
    if rule is not None:
        room.join_rule(rule)
    if current is not None:
        room.member(BOB, current)
    version = room.version
    open_to_invited = {
        None: True,
        1: True,  # no string: as if absent
        "invite": True,
        "knock": version.knocking,
        "restricted": version.restricted,
        "knock_restricted": version.knock_restricted,
    }.get(rule, False)
    if current != "ban" and (rule == "public" or (open_to_invited and current in ("invite", "join"))):
        allow(room, "m.room.member", BOB, membership("join"), BOB)
    else:
        deny("member/join", room, "m.room.member", BOB, membership("join"), BOB)
    deny("member/join", room, "m.room.member", ALICE, membership("join"), BOB)


@pytest.mark.parametrize("name", versions_where(restricted=True))
@pytest.mark.parametrize("rule", ["restricted", "knock_restricted"])
def test_restricted_joins(name: str, rule: str) -> None:
    room = Room(name)
    room.join_rule(rule)
    room.member(DAVE, "join")
    room.power_levels(invite=50)
    by_alice = membership("join", join_authorised_via_users_server=ALICE)
    by_dave = membership("join", join_authorised_via_users_server=DAVE)
    if rule == "knock_restricted" and not room.version.knock_restricted:
        deny("member/join", room, "m.room.member", BOB, by_alice, BOB, server_name="a.example")
        return
    allow(room, "m.room.member", BOB, by_alice, BOB, server_name="a.example")
    # signed by Bob's server only; without the level to invite; not in the room; nobody named
    deny("member/authorised", room, "m.room.member", BOB, by_alice, BOB)
    deny("member/authorised", room, "m.room.member", BOB, membership("join", join_authorised_via_users_server=1), BOB)
    deny("member/join", room, "m.room.member", BOB, by_dave, BOB, server_name="a.example")
    by_carol = membership("join", join_authorised_via_users_server=CAROL)
    deny("member/join", room, "m.room.member", BOB, by_carol, BOB, server_name="c.example")
    deny("member/join", room, "m.room.member", BOB, membership("join"), BOB)
    room.member(BOB, "invite")
    allow(room, "m.room.member", BOB, membership("join"), BOB)


@pytest.mark.parametrize("name", VERSIONS)
def test_invites(name: str) -> None:
    room = Room(name)
    deny("member/invite", room, "m.room.member", BOB, membership("invite"), CAROL)  # not in the room
    for current, allowed in (
        (None, True),
        ("leave", True),
        ("invite", True),
        ("knock", True),
        ("join", False),
        ("ban", False),
    ):
        if current:
            room.member(BOB, current)
        (allow if allowed else _denied("member/invite"))(room, "m.room.member", ALICE, membership("invite"), BOB)
    room.member(DAVE, "join")
    allow(room, "m.room.member", DAVE, membership("invite"), CAROL)  # 0 is the default
    room.power_levels(invite=1)
    deny("member/invite", room, "m.room.member", DAVE, membership("invite"), CAROL)


def _denied(rule: str) -> Callable[..., None]:
    return lambda *args, **kwargs: deny(rule, *args, **kwargs)


@pytest.mark.parametrize("name", VERSIONS)
def test_leaving(name: str) -> None:
    room = Room(name)
    for current in ("invite", "join", "knock", "leave", "ban", None):
        if current is None:
            room.state.pop(("m.room.member", BOB))
        else:
            room.member(BOB, current)
        allowed = current in ("invite", "join") or (current == "knock" and room.version.knocking)
        (allow if allowed else _denied("member/leave"))(room, "m.room.member", BOB, membership("leave"), BOB)


@pytest.mark.parametrize("name", VERSIONS)
def test_kicks_and_unbans(name: str) -> None:
    room = Room(name)
    room.member(BOB, "join")
    room.member(DAVE, "join")
    deny("member/leave", room, "m.room.member", CAROL, membership("leave"), BOB)
    deny("member/leave", room, "m.room.member", DAVE, membership("leave"), BOB)
    allow(room, "m.room.member", ALICE, membership("leave"), BOB)
    room.power_levels(users=_users(room, {DAVE: 50, BOB: 50}), kick=50, ban=60)
    deny("member/leave", room, "m.room.member", DAVE, membership("leave"), BOB)  # equals are safe
    room.member(CAROL, "ban")
    deny("member/leave", room, "m.room.member", DAVE, membership("leave"), CAROL)  # kick, but no ban level
    allow(room, "m.room.member", ALICE, membership("leave"), CAROL)


def _users(room: Room, users: dict[str, int]) -> dict[str, int]:
    return users if room.version.creators_outrank_all else {ALICE: 100, **users}


@pytest.mark.parametrize("name", VERSIONS)
def test_bans(name: str) -> None:
    room = Room(name)
    room.member(BOB, "join")
    deny("member/ban", room, "m.room.member", CAROL, membership("ban"), BOB)
    deny("member/ban", room, "m.room.member", BOB, membership("ban"), CAROL)
    allow(room, "m.room.member", ALICE, membership("ban"), BOB)
    allow(room, "m.room.member", ALICE, membership("ban"), CAROL)  # never was in the room
    room.power_levels(users=_users(room, {BOB: 50, DAVE: 50}))
    deny("member/ban", room, "m.room.member", BOB, membership("ban"), DAVE)
    deny("member/ban", room, "m.room.member", BOB, membership("ban"), ALICE)


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("rule", ["public", "invite", "knock", "restricted", "knock_restricted"])
def test_knocks(name: str, rule: str) -> None:
    room = Room(name)
    room.join_rule(rule)
    if not room.version.knocking:
        deny("member/unknown", room, "m.room.member", BOB, membership("knock"), BOB)
        return
    if not (rule == "knock" or (rule == "knock_restricted" and room.version.knock_restricted)):
        deny("member/knock", room, "m.room.member", BOB, membership("knock"), BOB)
        return
    for current, allowed in (
        (None, True),
        ("leave", True),
        ("knock", True),
        ("invite", False),
        ("join", False),
        ("ban", False),
    ):
        if current:
            room.member(BOB, current)
        (allow if allowed else _denied("member/knock"))(room, "m.room.member", BOB, membership("knock"), BOB)
    deny("member/knock", room, "m.room.member", ALICE, membership("knock"), CAROL)


@pytest.mark.parametrize("name", VERSIONS)
def test_third_party_invites(name: str) -> None:
    identity_key, other_key = generate_signing_key(b"i" * 32, "0"), generate_signing_key(b"o" * 32, "0")
    room = Room(name)
    content = {
        "public_key": other_key.verify_key_base64,
        "public_keys": [{"public_key": identity_key.verify_key_base64}, 1],
    }
    room.add("m.room.third_party_invite", ALICE, content, "token")

    def invite(signed: Any, **more: Any) -> dict[str, Any]:
        return membership("invite", third_party_invite={"display_name": "b", "signed": signed, **more})

    signed = sign_json({"mxid": BOB, "token": "token"}, "id.example", identity_key)
    allow(room, "m.room.member", ALICE, invite(signed), BOB)
    wrong_key = sign_json({"mxid": BOB, "token": "token"}, "id.example", generate_signing_key(b"x" * 32, "0"))
    for broken in (
        None,
        {},
        {"mxid": BOB, "token": 1},
        {"mxid": BOB, "token": "token"},
        {"mxid": BOB, "token": "token", "signatures": {"id": {"ed25519:0": "%", "rsa:1": "A", "ed25519:1": 1}, "x": 1}},
        signed | {"mxid": CAROL},
        signed | {"token": "unknown"},
        signed | {"more": 1},
        wrong_key,
    ):
        deny("member/invite", room, "m.room.member", ALICE, invite(broken), BOB)
    deny("member/invite", room, "m.room.member", ALICE, membership("invite", third_party_invite=1), BOB)
    deny("member/invite", room, "m.room.member", ALICE, invite(signed), CAROL)
    deny("member/invite", room, "m.room.member", DAVE, invite(signed), BOB)
    room.member(BOB, "ban")
    deny("member/invite", room, "m.room.member", ALICE, invite(signed), BOB)


# --- everything else -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERSIONS)
def test_ordinary_events(name: str) -> None:
    room = Room(name)
    deny("joined", room, "m.room.message", BOB, {})
    room.member(BOB, "invite")
    deny("joined", room, "m.room.message", BOB, {})
    room.member(BOB, "join")
    allow(room, "m.room.message", BOB, {})
    deny("level", room, "m.room.topic", BOB, {}, "")  # state_default is 50, with or without power levels
    room.power_levels(events={"m.room.topic": 0, "m.room.message": 10})
    allow(room, "m.room.topic", BOB, {}, "")
    deny("level", room, "m.room.message", BOB, {})
    deny("level", room, "m.room.name", BOB, {}, "")
    allow(room, "m.room.name", ALICE, {}, "")
    room.power_levels(state_default=0)
    allow(room, "x", BOB, {}, BOB)
    deny("state_key", room, "x", BOB, {}, ALICE)
    deny("state_key", room, "x", ALICE, {}, "@")


@pytest.mark.parametrize("name", VERSIONS)
def test_sending_third_party_invites(name: str) -> None:
    room = Room(name)
    room.member(BOB, "join")
    allow(room, "m.room.third_party_invite", BOB, {}, "t")  # the invite level alone decides
    room.power_levels(invite=1)
    deny("third_party_invite", room, "m.room.third_party_invite", BOB, {}, "t")


@pytest.mark.parametrize("name", VERSIONS)
def test_aliases(name: str) -> None:
    room = Room(name)
    if room.version.aliases_rule:
        allow(room, "m.room.aliases", BOB, {}, "b.example")  # need not even be joined
        deny("aliases", room, "m.room.aliases", BOB, {}, "a.example")
        deny("aliases", room, "m.room.aliases", BOB, {})
    else:
        deny("joined", room, "m.room.aliases", BOB, {}, "b.example")
        allow(room, "m.room.aliases", ALICE, {}, "anything")


@pytest.mark.parametrize("name", VERSIONS)
def test_redactions(name: str) -> None:
    room = Room(name)
    room.member(BOB, "join")
    target = room.add("m.room.message", ALICE, {})
    own = room.add("m.room.message", BOB, {})
    if room.version.redaction_rule:
        deny("redaction", room, "m.room.redaction", BOB, {}, redacts=target.event_id)
        deny("redaction", room, "m.room.redaction", BOB, {})
        allow(room, "m.room.redaction", BOB, {}, redacts=own.event_id)
        allow(room, "m.room.redaction", ALICE, {}, redacts=own.event_id)
        return
    levels = power_levels_of(room.version, room.create, None)
    for sender, redacted, applies in ((BOB, target, False), (BOB, own, True), (ALICE, own, True)):
        redaction = room.add("m.room.redaction", sender, {}, redacts=redacted.event_id)
        assert may_apply_redaction(room.version, redaction, redacted, levels) is applies
    assert not may_apply_redaction(room.version, redaction, target, levels)


# --- power levels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERSIONS)
def test_first_power_levels(name: str) -> None:
    room = Room(name)
    allow(room, "m.room.power_levels", ALICE, {"users": _users(room, {BOB: 1000}), "ban": 1000}, "")


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"ban": 60}, None),
        ({"ban": 40}, None),
        ({"ban": 61}, "properties"),
        ({"kick": 10}, "properties"),  # it stood above the sender
        ({"state_default": 61}, "properties"),
        ({"users_default": 61}, "properties"),
        ({"invite": 60}, None),
        ({"events": {}}, "old_entries"),  # removes one above the sender
        ({"events": {"high": 90, "low": 60, "new": 60}}, None),
        ({"events": {"high": 90, "low": 61}}, "new_entries"),
        ({"events": {"high": 90, "low": 1, "new": 61}}, "new_entries"),
        ({"events": {"high": 60, "low": 1}}, "old_entries"),
        ({"users": {"@equal:x": 60, "@low:x": 1}}, None),
        ({"users": {"@equal:x": 59, "@low:x": 1}}, "old_users"),
        ({"users": {"@low:x": 1}}, "old_users"),
        ({"users": {"@equal:x": 60}}, None),
        ({"users": {"@equal:x": 60, "@low:x": 61}}, "new_users"),
        ({"users": {"@equal:x": 60, "@low:x": 1, "@new:x": 61}}, "new_users"),
        ({"users": {"@equal:x": 60, "@low:x": 1, BOB: 0}}, None),  # one's own may be lowered
        ({"users": {"@equal:x": 60, "@low:x": 1, BOB: 61}}, "new_users"),
    ],
)
def test_changes_of_power_levels(name: str, change: dict[str, Any], rule: str | None) -> None:
    room = Room(name)
    room.member(BOB, "join")
    levels = {
        "users": _users(room, {BOB: 60, "@equal:x": 60, "@low:x": 1}),
        "ban": 50,
        "kick": 90,
        "events": {"high": 90, "low": 1},
    }
    room.power_levels(**levels)
    if "users" in change:
        change = change | {"users": _users(room, {BOB: 60} | change["users"])}
    if rule is None:
        allow(room, "m.room.power_levels", BOB, levels | change, "")
    else:
        deny(f"power_levels/{rule}", room, "m.room.power_levels", BOB, levels | change, "")


@pytest.mark.parametrize("name", VERSIONS)
def test_notification_levels(name: str) -> None:
    room = Room(name)
    room.member(BOB, "join")
    levels = {"users": _users(room, {BOB: 60}), "notifications": {"room": 70}}
    room.power_levels(**levels)
    change = levels | {"notifications": {"room": 10}}
    if room.version.notification_levels_checked:
        deny("power_levels/old_entries", room, "m.room.power_levels", BOB, change, "")
    else:
        allow(room, "m.room.power_levels", BOB, change, "")


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("value", ["50", " +050 ", 50.9, "abc", True, None, []])
@pytest.mark.parametrize("place", ["ban", "events", "users"])
def test_values_of_power_levels(name: str, value: Any, place: str) -> None:
    room = Room(name)
    if isinstance(value, float) and room.version.strict_canonical_json:
        return  # such an event has no valid format
    content = {"ban": {"ban": value}, "events": {"events": {"t": value}}, "users": {"users": {BOB: value}}}[place]
    readable = (isinstance(value, str) and value != "abc" and not room.version.integer_power_levels) or (
        isinstance(value, float) and room.version.float_power_levels
    )
    if readable:
        allow(room, "m.room.power_levels", ALICE, content, "")
    else:
        rules = {"ban": "integers", "events": "maps", "users": "users"}
        exact = room.version.integer_power_levels or place == "users"
        deny(
            f"power_levels/{rules[place]}" if exact else "power_levels", room, "m.room.power_levels", ALICE, content, ""
        )


@pytest.mark.parametrize("name", VERSIONS)
def test_users_must_be_user_ids(name: str) -> None:
    room = Room(name)
    deny("power_levels/users", room, "m.room.power_levels", ALICE, {"users": {"bob": 1}}, "")
    deny("power_levels/users", room, "m.room.power_levels", ALICE, {"users": []}, "")
    allow(room, "m.room.power_levels", ALICE, {"users": {"@Odd One:x": 1}}, "")


@pytest.mark.parametrize("name", versions_where(creators_outrank_all=True))
def test_creators_outrank_all(name: str) -> None:
    room = Room(name, {"additional_creators": [BOB]})
    room.member(BOB, "join")
    room.power_levels(users={CAROL: 2**53 - 1}, state_default=2**53 - 1)
    allow(room, "m.room.topic", BOB, {}, "")
    allow(room, "m.room.member", ALICE, membership("ban"), CAROL)
    room.member(CAROL, "join")
    deny("member/ban", room, "m.room.member", CAROL, membership("ban"), BOB)
    deny("member/leave", room, "m.room.member", ALICE, membership("leave"), BOB)  # creators are equals
    for creator in (ALICE, BOB):
        deny("power_levels/creators", room, "m.room.power_levels", ALICE, {"users": {creator: 1}}, "")


def test_rules_are_numbered_as_the_versions_page_does() -> None:
    """The same rule in different versions. Spec: rooms/v1, v6, v8, v12."""
    numbers = {}
    for name in VERSIONS:
        room = Room(name)
        with pytest.raises(AuthRuleViolation) as caught:
            check_auth(
                room.version, room.make("m.room.member", ALICE, membership("join"), BOB), room.state, room.create
            )
        numbers[name] = caught.value.rule
    assert {numbers[n] for n in ("1", "2", "3", "4", "5")} == {"5.2.2 member/join"}
    assert {numbers[n] for n in ("6", "7")} == {"4.2.2 member/join"}
    assert {numbers[n] for n in ("8", "9", "10", "11")} == {"4.3.2 member/join"}
    assert numbers["12"] == "5.3.2 member/join"


_odd = json_values.strict_values
_odd_contents = st.fixed_dictionaries(
    {},
    optional={
        "membership": st.sampled_from(["join", "invite", "leave", "ban", "knock"]) | _odd,
        "join_authorised_via_users_server": st.sampled_from([ALICE, "@:", ""]) | _odd,
        "third_party_invite": st.fixed_dictionaries(
            {},
            optional={
                "signed": st.fixed_dictionaries({}, optional=dict.fromkeys(("mxid", "token", "signatures"), _odd))
                | _odd
            },
        )
        | _odd,
        "users": st.dictionaries(st.sampled_from([ALICE, BOB, "x"]), _odd) | _odd,
        **dict.fromkeys(("events", "notifications", "ban", "public_key", "public_keys", "join_rule", "redacts"), _odd),
        **dict.fromkeys(("creator", "additional_creators", "room_version", "m.federate", "allow"), _odd),
    },
)
_odd_types = st.sampled_from(
    ["m.room.member", "m.room.power_levels", "m.room.third_party_invite", "m.room.redaction", "m.room.create",
     "m.room.aliases", "m.room.join_rules"]
)  # fmt: skip
_rooms = {name: Room(name) for name in VERSIONS}


@given(
    st.sampled_from(VERSIONS),
    st.lists(
        st.tuples(_odd_types, st.sampled_from([ALICE, BOB]), _odd_contents, st.sampled_from(["", ALICE, BOB])),
        max_size=3,
    ),
    st.tuples(_odd_types, st.sampled_from([ALICE, BOB]), _odd_contents, st.sampled_from([None, "", ALICE, BOB])),
)
@settings(max_examples=300)
def test_odd_content_breaks_rules_and_nothing_else(
    name: str, odd_state: list[tuple[str, str, dict[str, Any], str]], last: tuple[str, str, dict[str, Any], str | None]
) -> None:
    """D217: nothing in a content may be trusted to have its type, neither in the event nor in the room's state."""
    room = _rooms[name]
    state = dict(room.state)
    for event_type, sender, content, state_key in odd_state:
        state[event_type, state_key] = room.make(event_type, sender, content, state_key)
    event = room.make(*last)
    create = state["m.room.create", ""]
    with suppress(AuthRuleViolation):
        check_auth_events(room.version, event, state.values())
    with suppress(AuthRuleViolation):
        check_auth(room.version, event, state, create)
