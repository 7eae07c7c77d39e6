"""The endpoints of push rules, and the rows that they store and announce."""

import asyncio
from typing import Any

import orjson
import pytest

from replication.calls.applied_rows import RoomOwners
from replication.streams import PUSH_RULES
from shared.config.sections import Experimental, Limits
from shared.core.identifiers import RoomId, UserId
from shared.core.push_rules import ALL_OFF
from shared.core.push_rules.validation import MAX_RULES
from shared.storage.push.rules import get_push_rules
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import ClientApi, User, client_api, make_config
from tests.rigs.requests import Answer
from tests.spec_answers import check_answer
from workers.client_api.user_data.push_rules_writer import PushRulesWriter

_GLOBAL = "/pushrules/global"
_ROOM, _SENDER = RoomId("!room:example.org"), "@loud:example.org"
_MATCH = {"kind": "event_match", "key": "type", "pattern": "m.*"}


def _check(path: str, method: str, answer: Answer) -> None:
    assert answer.status == 200, answer.body
    check_answer("pushrules.yaml", path, method.lower(), answer.json)


async def _ids(user: User, kind: str) -> list[str]:
    rules = (await user.call("GET", f"{_GLOBAL}/")).json[kind]
    return [rule["rule_id"] for rule in rules if not rule["default"]]


async def _put(user: User, kind: str, rule_id: str, query: str = "", **body: Any) -> Any:
    return await user.call("PUT", f"{_GLOBAL}/{kind}/{rule_id}", {"actions": ["notify"], **body}, query=query)


async def test_rules_of_every_kind_are_created_and_deleted(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        path = f"{_GLOBAL}/{{kind}}/{{ruleId}}"
        made: dict[tuple[str, str], dict[str, Any]] = {
            ("override", "mine"): {"conditions": [_MATCH]},
            ("content", "honey"): {"pattern": "honey*"},
            ("room", _ROOM): {},
            ("sender", _SENDER): {},
            ("underride", "low"): {"conditions": []},
        }
        for (kind, rule_id), body in made.items():
            answer = await _put(alice, kind, rule_id, **body)
            _check(path, "PUT", answer)
            found = await alice.call("GET", f"{_GLOBAL}/{kind}/{rule_id}")
            _check(path, "GET", found)
            whole = {"rule_id": rule_id, "default": False, "enabled": True, "actions": ["notify"], **body}
            assert found.json == whole
        everything = await alice.call("GET", "/pushrules/")
        _check("/pushrules/", "GET", everything)
        kinds = everything.json["global"]
        assert list(kinds) == ["override", "content", "room", "sender", "underride"]
        # The user's own rules come after .m.rule.master and before the other defaults.
        assert [rule["rule_id"] for rule in kinds["override"]][:3] == [
            ".m.rule.master",
            "mine",
            ".m.rule.suppress_notices",
        ]
        assert kinds["underride"][0]["rule_id"] == "low"
        assert (await alice.call("GET", f"/user/{alice.quoted}/account_data/m.push_rules")).json == everything.json
        assert (await bob.call("GET", f"{_GLOBAL}/content/honey")).errcode == "M_NOT_FOUND"
        row = (await worker.sql("SELECT * FROM push_rules"))[0]
        assert (row["user_id"], row["everywhere"], row["rooms"]) == (alice.user_id, True, [_ROOM])
        rows = worker.bus.rows(PUSH_RULES)
        assert len(rows) == len(made)
        assert (rows[-1].position, rows[-1].rules, rows[-1].ignored) == (row["position"], row["rules"], ())

        for kind, rule_id in made:
            _check(path, "DELETE", await alice.call("DELETE", f"{_GLOBAL}/{kind}/{rule_id}"))
            missing = await alice.call("DELETE", f"{_GLOBAL}/{kind}/{rule_id}")
            assert (missing.status, missing.errcode) == (404, "M_NOT_FOUND")
        assert (await alice.call("GET", "/pushrules/")).json == _of(alice, (await bob.call("GET", "/pushrules")).json)
        row = (await worker.sql("SELECT * FROM push_rules"))[0]
        assert (row["rules"], row["everywhere"], row["rooms"]) == (b"", False, [])


def _of(user: User, rules: Any) -> Any:
    """Return bob's rules as those of the user. Default rules hold the user's name."""
    return orjson.loads(orjson.dumps(rules).replace(b"@bob:", user.user_id.split(":")[0].encode() + b":"))


async def test_rules_are_ordered_by_before_and_after(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        for rule_id in ("a", "b", "c"):
            await _put(alice, "content", rule_id, pattern=rule_id)
        assert await _ids(alice, "content") == ["c", "b", "a"]
        await _put(alice, "content", "d", "before=b", pattern="d")
        await _put(alice, "content", "e", "after=b", pattern="e")
        assert await _ids(alice, "content") == ["c", "d", "b", "e", "a"]
        await _put(alice, "content", "f", "before=a&after=c", pattern="f")
        assert await _ids(alice, "content") == ["c", "d", "b", "e", "f", "a"]
        await alice.call("PUT", f"{_GLOBAL}/content/b/enabled", {"enabled": False})
        await _put(alice, "content", "b", pattern="new")
        assert await _ids(alice, "content") == ["c", "d", "b", "e", "f", "a"]
        await _put(alice, "content", "b", "before=b", pattern="newer")
        assert await _ids(alice, "content") == ["c", "d", "b", "e", "f", "a"]
        await _put(alice, "content", "b", "after=a", pattern="newest")
        assert await _ids(alice, "content") == ["c", "d", "e", "f", "a", "b"]
        changed = (await alice.call("GET", f"{_GLOBAL}/content/b")).json
        assert (changed["pattern"], changed["enabled"]) == ("newest", False)
        for other, errcode in (("none", "M_UNKNOWN"), (".m.rule.master", "M_INVALID_PARAM")):
            refused = await _put(alice, "content", "g", f"after={other}", pattern="g")
            assert (refused.status, refused.errcode) == (400, errcode)


async def test_default_rules_take_other_actions_and_are_disabled(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        master, message = f"{_GLOBAL}/override/.m.rule.master", f"{_GLOBAL}/underride/.m.rule.message"
        answer = await alice.call("PUT", f"{master}/enabled", {"enabled": True})
        _check(f"{_GLOBAL}/{{kind}}/{{ruleId}}/enabled", "PUT", answer)
        enabled = await alice.call("GET", f"{master}/enabled")
        _check(f"{_GLOBAL}/{{kind}}/{{ruleId}}/enabled", "GET", enabled)
        assert enabled.json == {"enabled": True}
        loud = ["notify", {"set_tweak": "sound", "value": "bing"}]
        answer = await alice.call("PUT", f"{message}/actions", {"actions": [*loud, "dont_notify", "coalesce"]})
        _check(f"{_GLOBAL}/{{kind}}/{{ruleId}}/actions", "PUT", answer)
        actions = await alice.call("GET", f"{message}/actions")
        _check(f"{_GLOBAL}/{{kind}}/{{ruleId}}/actions", "GET", actions)
        assert actions.json == {"actions": [*loud, "dont_notify", "coalesce"]}, "given back as set"
        whole = (await alice.call("GET", f"{_GLOBAL}/")).json
        assert whole["override"][0]["enabled"] is True
        assert next(r for r in whole["underride"] if r["rule_id"] == ".m.rule.message")["actions"][:2] == loud
        before = len(worker.bus.rows(PUSH_RULES))
        # The defaults are not stored, and a repetition is not announced.
        await alice.call("PUT", f"{master}/enabled", {"enabled": False})
        await alice.call("PUT", f"{message}/actions", {"actions": ["notify"]})
        await alice.call("PUT", f"{message}/actions", {"actions": ["notify"]})
        assert len(worker.bus.rows(PUSH_RULES)) == before + 2
        assert (await get_push_rules(worker.foundation.database, alice.user_id)).rules == b""


@pytest.mark.parametrize(
    ("kind", "rule_id", "body", "errcode"),
    [
        ("odd", "x", {"actions": []}, "M_INVALID_PARAM"),
        ("postcontent", "x", {"actions": []}, "M_INVALID_PARAM"),
        ("override", ".x", {"actions": []}, "M_INVALID_PARAM"),
        ("override", "a%2Fb", {"actions": []}, "M_INVALID_PARAM"),
        ("override", "a%5Cb", {"actions": []}, "M_INVALID_PARAM"),
        ("override", "x" * 256, {"actions": []}, "M_INVALID_PARAM"),
        ("override", "x", {}, "M_MISSING_PARAM"),
        ("override", "x", {"actions": "notify"}, "M_INVALID_PARAM"),
        ("override", "x", {"actions": ["jump"]}, "M_INVALID_PARAM"),
        ("override", "x", {"actions": [{"sound": "bing"}]}, "M_INVALID_PARAM"),
        ("override", "x", {"actions": ["notify"] * 17}, "M_INVALID_PARAM"),
        ("override", "x", {"actions": [], "conditions": {}}, "M_INVALID_PARAM"),
        ("override", "x", {"actions": [], "conditions": [{"key": "type"}]}, "M_INVALID_PARAM"),
        ("override", "x", {"actions": [], "conditions": [{"kind": "event_match"}]}, "M_INVALID_PARAM"),
        ("override", "x", {"actions": [], "conditions": [_MATCH] * 33}, "M_INVALID_PARAM"),
        ("override", "x", {"actions": [], "conditions": [{"kind": "new", "text": "x" * 513}]}, "M_INVALID_PARAM"),
        ("content", "x", {"actions": []}, "M_MISSING_PARAM"),
        ("content", "x", {"actions": [], "pattern": 7}, "M_INVALID_PARAM"),
        ("content", "x", {"actions": [], "pattern": "*" * 17}, "M_INVALID_PARAM"),
    ],
)
async def test_invalid_rules_are_refused(
    postgres_module: TestDatabase, kind: str, rule_id: str, body: dict[str, Any], errcode: str
) -> None:
    async with client_api(postgres_module.dsn) as worker:
        user = await worker.register(f"user{abs(hash((kind, rule_id, str(body))))}")
        refused = await user.call("PUT", f"{_GLOBAL}/{kind}/{rule_id}", body)
        assert (refused.status, refused.errcode) == (400, errcode)
        assert (await get_push_rules(worker.foundation.database, user.user_id)).position == 0


async def test_unknown_rules_are_not_found(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        for base in (f"{_GLOBAL}/odd/x", f"{_GLOBAL}/content/x", f"{_GLOBAL}/override/.m.rule.roomnotif"):
            for method, path, body in (
                ("GET", "", None),
                ("GET", "/enabled", None),
                ("GET", "/actions", None),
                ("DELETE", "", None),
                ("PUT", "/enabled", {"enabled": True}),
                ("PUT", "/actions", {"actions": []}),
            ):
                missing = await alice.call(method, base + path, body)
                assert (missing.status, missing.errcode) == (404, "M_NOT_FOUND")
        assert (await alice.call("DELETE", f"{_GLOBAL}/override/.m.rule.master")).errcode == "M_NOT_FOUND"
        for wrong, errcode in (({}, "M_MISSING_PARAM"), ({"enabled": 1}, "M_INVALID_PARAM")):
            refused = await alice.call("PUT", f"{_GLOBAL}/override/.m.rule.master/enabled", wrong)
            assert refused.errcode == errcode


async def test_number_of_rules_is_limited(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        rules = [{"rule_id": str(number), "actions": [], "pattern": "x"} for number in range(MAX_RULES)]
        await _put(alice, "content", "x", pattern="x")
        await worker.sql("UPDATE push_rules SET rules = $1", orjson.dumps({"rules": {"content": rules}}))
        refused = await _put(alice, "sender", _SENDER)
        assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")
        with_wildcards = [rule | {"pattern": "x*"} for rule in rules[:100]]
        await worker.sql("UPDATE push_rules SET rules = $1", orjson.dumps({"rules": {"content": with_wildcards}}))
        assert (await _put(alice, "content", "y", pattern="y*")).errcode == "M_INVALID_PARAM"
        assert (await _put(alice, "content", "y", pattern="y")).status == 200


async def test_concurrent_changes_are_all_kept(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        answers = await asyncio.gather(*(_put(alice, "sender", f"@u{n}:example.org") for n in range(4)))
        assert [answer.status for answer in answers] == [200] * 4
        assert sorted(await _ids(alice, "sender")) == [f"@u{n}:example.org" for n in range(4)]


async def test_ignored_users_are_stored_with_the_rules(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        path = f"/user/{alice.quoted}/account_data/m.ignored_user_list"
        listed = {"ignored_users": {"@a:b": {}, "@c:d": {"x": 1}, "nobody": {}}}
        assert (await alice.call("PUT", path, listed)).json == {}
        assert (await alice.call("GET", path)).json == listed
        await _put(alice, "sender", _SENDER)
        record = await get_push_rules(worker.foundation.database, alice.user_id)
        assert (record.ignored, b"@loud" in record.rules) == (("@a:b", "@c:d"), True)
        assert [row.ignored for row in worker.bus.rows(PUSH_RULES)] == [("@a:b", "@c:d")] * 2
        lists: tuple[Any, ...] = ({}, {"ignored_users": []})
        for odd in lists:
            assert (await alice.call("PUT", path, odd)).json == {}
            record = await get_push_rules(worker.foundation.database, alice.user_id)
            assert (record.ignored, b"@loud" in record.rules) == ((), True)
        last = worker.bus.rows(PUSH_RULES)[-1]
        assert (last.position, last.rules, last.ignored) == (record.position, record.rules, ())
        # In a room this type has no meaning.
        in_room = f"/user/{alice.quoted}/rooms/{_ROOM}/account_data/m.ignored_user_list"
        assert (await alice.call("PUT", in_room, listed)).json == {}
        assert (await get_push_rules(worker.foundation.database, alice.user_id)).ignored == ()


async def test_number_of_ignored_users_is_limited(postgres: TestDatabase) -> None:
    config = make_config(limits=Limits(max_ignored_users=3))
    async with client_api(postgres.dsn, config) as worker:
        alice = await worker.register("alice")
        path = f"/user/{alice.quoted}/account_data/m.ignored_user_list"
        listed: dict[str, dict[str, Any]] = {"ignored_users": {f"@u{number}:x": {} for number in range(3)}}
        assert (await alice.call("PUT", path, listed)).status == 200
        too_much: tuple[dict[str, Any], ...] = ({"@u3:x": {}}, {"nobody": {}}, {"@u2:x": {"note": "x" * 300_000}})
        for more in too_much:
            refused = await alice.call("PUT", path, {"ignored_users": listed["ignored_users"] | more})
            assert (refused.status, refused.errcode) == (413, "M_TOO_LARGE")
        assert (await alice.call("GET", path)).json == listed
        assert (await alice.call("PUT", path, {"ignored_users": {"@u4:x": {}}})).status == 200
        # Other types of account data, and this one in a room, may have as many entries as fit.
        for other in (f"/rooms/{_ROOM}/account_data/m.ignored_user_list", "/account_data/m.direct"):
            listed["ignored_users"]["@u3:x"] = {}
            assert (await alice.call("PUT", f"/user/{alice.quoted}{other}", listed)).status == 200


async def test_rules_that_take_too_much_work_are_refused_with_the_reason(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        rules = [
            {"rule_id": str(number), "actions": [], "pattern": f"?{'a' * 400}{number}"}  # stored by an older version
            for number in range(60)
        ]
        await _put(alice, "content", "x", pattern="x")
        await worker.sql("UPDATE push_rules SET rules = $1", orjson.dumps({"rules": {"content": rules}}))
        refused = await _put(alice, "content", "y", pattern="?" + "b" * 400)
        assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")
        assert "steps of work" in refused.json["error"] and "wildcards" in refused.json["error"]
        for number in range(50):
            assert (await alice.call("DELETE", f"{_GLOBAL}/content/{number}")).status == 200
        assert (await _put(alice, "content", "y", pattern="?" + "b" * 400)).status == 200


async def test_experimental_switches_add_rules(postgres: TestDatabase) -> None:
    switches = Experimental(msc4306_thread_subscriptions=True, msc4028_encrypted_events=True)
    async with client_api(postgres.dsn, make_config(experimental=switches)) as worker:
        alice = await worker.register("alice")
        rules = (await alice.call("GET", f"{_GLOBAL}/")).json
        assert list(rules) == ["override", "content", "postcontent", "room", "sender", "underride"]
        assert [rule["rule_id"] for rule in rules["postcontent"]] == [
            ".io.element.msc4306.rule.unsubscribed_thread",
            ".io.element.msc4306.rule.subscribed_thread",
        ]
        assert ".org.matrix.msc4028.encrypted_event" in [rule["rule_id"] for rule in rules["override"]]
        assert (await _put(alice, "postcontent", "mine", conditions=[_MATCH])).status == 200
        assert await _ids(alice, "postcontent") == ["mine"]


async def test_room_rules_are_copied_to_a_new_room(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        in_room = {"kind": "event_match", "key": "room_id", "pattern": _ROOM}
        await _put(alice, "override", _ROOM, actions=[], conditions=[in_room])
        await _put(alice, "override", "other", conditions=[in_room, _MATCH])
        await _put(alice, "room", _ROOM)
        await _put(alice, "content", _ROOM, pattern="x")
        rules = await _copy(worker, alice.user_id, RoomId("!new:example.org"))
        assert [rule["rule_id"] for rule in rules["override"] if not rule["default"]] == [
            "other",
            "other !new:example.org",
            _ROOM,
            "!new:example.org",
        ]
        assert rules["override"][4]["conditions"] == [in_room | {"pattern": "!new:example.org"}]
        assert [rule["rule_id"] for rule in rules["room"]] == [_ROOM, "!new:example.org"]
        assert len(rules["content"]) == 1
        assert await _copy(worker, alice.user_id, RoomId("!new:example.org")) == rules
        assert (await worker.sql("SELECT rooms FROM push_rules"))[0]["rooms"] == ["!new:example.org", _ROOM]


async def _copy(worker: ClientApi, user_id: UserId, room_id: RoomId) -> Any:
    parts = worker.foundation
    owners = RoomOwners(parts.slots, parts.internal_client)
    rules = PushRulesWriter(parts.database, parts.writer, parts.announcer, owners, ALL_OFF)
    await rules.copy_room_rules(user_id, _ROOM, room_id)
    return (await rules.get_ruleset(user_id))["global"]


async def test_concurrent_changes_of_rules_and_tags_succeed(postgres: TestDatabase) -> None:
    """Settings pages send all changes at once."""
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        rules = (alice.call("PUT", f"/pushrules/global/room/!r{n}:x.y", {"actions": []}) for n in range(20))
        tags = (alice.call("PUT", f"/user/{alice.quoted}/rooms/!r:x.y/tags/u.{n}", {"order": 0.5}) for n in range(20))
        answers = await asyncio.gather(*rules, *tags)
        assert {answer.status for answer in answers} == {200}
        shown = (await alice.call("GET", "/pushrules/global/room/")).json
        assert {rule["rule_id"] for rule in shown} == {f"!r{n}:x.y" for n in range(20)}
        tags_now = (await alice.call("GET", f"/user/{alice.quoted}/rooms/!r:x.y/tags")).json["tags"]
        assert tags_now.keys() == {f"u.{n}" for n in range(20)}


async def test_rules_are_returned_by_kind_with_and_without_trailing_slash(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        await alice.call("PUT", "/pushrules/global/content/bee/", {"actions": ["dont_notify"], "pattern": "bee"})
        whole = (await alice.call("GET", "/pushrules/")).json["global"]
        for kind in ("override", "content", "room", "sender", "underride"):
            for slash in ("", "/"):
                assert (await alice.call("GET", f"/pushrules/global/{kind}{slash}")).json == whole[kind], kind
        for path in ("/pushrules/global/content/bee", "/pushrules/global/content/bee/"):
            rule = (await alice.call("GET", path)).json
            assert rule["actions"] == ["dont_notify"], "given back as set"
        assert (await alice.call("GET", "/pushrules/global/nonsense/")).errcode == "M_INVALID_PARAM"
