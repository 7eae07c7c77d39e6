"""Push rules through the endpoints, and what they leave in the database and on the stream."""

import asyncio
from typing import Any

import orjson
import pytest

from replication.bus import wire
from shared.config.sections import Experimental
from shared.core.push_rules import ALL_OFF
from shared.core.push_rules.validation import MAX_RULES
from shared.core.rows import PushRulesRow
from shared.storage.push.rules import get_push_rules
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import ClientApi, User, client_api, make_config
from tests.rigs.requests import Answer
from tests.spec_answers import check_answer
from workers.client_api.user_data.push_rules_writer import PushRulesWriter

_GLOBAL = "/pushrules/global"
_ROOM, _SENDER = "!room:example.org", "@loud:example.org"
_MATCH = {"kind": "event_match", "key": "type", "pattern": "m.*"}


def announced(worker: ClientApi) -> list[PushRulesRow]:
    decoder = wire.row_decoder(PushRulesRow)
    frames = [wire.decode_frame(m) for channel, m in worker.bus.published if channel == "push_rules"]
    return [decoder.decode(row) for frame in frames for row in frame.rows]


def _check(path: str, method: str, answer: Answer) -> None:
    assert answer.status == 200, answer.body
    check_answer("pushrules.yaml", path, method.lower(), answer.json)


async def _ids(user: User, kind: str) -> list[str]:
    rules = (await user.call("GET", f"{_GLOBAL}/")).json[kind]
    return [rule["rule_id"] for rule in rules if not rule["default"]]


async def _put(user: User, kind: str, rule_id: str, query: str = "", **body: Any) -> Any:
    return await user.call("PUT", f"{_GLOBAL}/{kind}/{rule_id}", {"actions": ["notify"], **body}, query=query)


async def test_own_rules_of_every_kind(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        path = f"{_GLOBAL}/{{kind}}/{{ruleId}}"
        made = {
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
        # Above all of one's own stands .m.rule.master, below them the other defaults.
        assert [rule["rule_id"] for rule in kinds["override"]][:3] == [
            ".m.rule.master", "mine", ".m.rule.suppress_notices"
        ]  # fmt: skip
        assert kinds["underride"][0]["rule_id"] == "low"
        assert (await alice.call("GET", f"/user/{alice.quoted}/account_data/m.push_rules")).json == everything.json
        assert (await bob.call("GET", f"{_GLOBAL}/content/honey")).errcode == "M_NOT_FOUND"
        row = (await worker.sql("SELECT * FROM push_rules"))[0]
        assert (row["user_id"], row["everywhere"], row["rooms"]) == (alice.user_id, True, [_ROOM])
        rows = announced(worker)
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
    """The rules of another user who changed as little."""
    return orjson.loads(orjson.dumps(rules).replace(b"@bob:", user.user_id.split(":")[0].encode() + b":"))


async def test_order_and_changes_in_place(postgres: TestDatabase) -> None:
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


async def test_default_rules_are_enabled_disabled_and_given_other_actions(postgres: TestDatabase) -> None:
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
        assert actions.json == {"actions": [*loud, "dont_notify", "coalesce"]}, "as they were set"
        whole = (await alice.call("GET", f"{_GLOBAL}/")).json
        assert whole["override"][0]["enabled"] is True
        assert next(r for r in whole["underride"] if r["rule_id"] == ".m.rule.message")["actions"][:2] == loud
        told = len(announced(worker))
        # As it was: nothing is stored; and saying it again tells nobody.
        await alice.call("PUT", f"{master}/enabled", {"enabled": False})
        await alice.call("PUT", f"{message}/actions", {"actions": ["notify"]})
        await alice.call("PUT", f"{message}/actions", {"actions": ["notify"]})
        assert len(announced(worker)) == told + 2
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
async def test_what_is_refused(
    postgres_module: TestDatabase, kind: str, rule_id: str, body: dict[str, Any], errcode: str
) -> None:
    async with client_api(postgres_module.dsn) as worker:
        user = await worker.register(f"user{abs(hash((kind, rule_id, str(body))))}")
        refused = await user.call("PUT", f"{_GLOBAL}/{kind}/{rule_id}", body)
        assert (refused.status, refused.errcode) == (400, errcode)
        assert (await get_push_rules(worker.foundation.database, user.user_id)).position == 0


async def test_what_is_not_there(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        for base in (f"{_GLOBAL}/odd/x", f"{_GLOBAL}/content/x", f"{_GLOBAL}/override/.m.rule.roomnotif"):
            for method, path, body in (
                ("GET", "", None), ("GET", "/enabled", None), ("GET", "/actions", None), ("DELETE", "", None),
                ("PUT", "/enabled", {"enabled": True}), ("PUT", "/actions", {"actions": []}),
            ):  # fmt: skip
                missing = await alice.call(method, base + path, body)
                assert (missing.status, missing.errcode) == (404, "M_NOT_FOUND")
        assert (await alice.call("DELETE", f"{_GLOBAL}/override/.m.rule.master")).errcode == "M_NOT_FOUND"
        for body, errcode in (({}, "M_MISSING_PARAM"), ({"enabled": 1}, "M_INVALID_PARAM")):
            refused = await alice.call("PUT", f"{_GLOBAL}/override/.m.rule.master/enabled", body)
            assert refused.errcode == errcode


async def test_there_is_a_limit(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        rules = [{"rule_id": str(number), "actions": [], "pattern": "x"} for number in range(MAX_RULES)]
        await _put(alice, "content", "x", pattern="x")
        await worker.sql("UPDATE push_rules SET rules = $1", orjson.dumps({"rules": {"content": rules}}))
        refused = await _put(alice, "sender", _SENDER)
        assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")
        wild = [rule | {"pattern": "x*"} for rule in rules[:100]]
        await worker.sql("UPDATE push_rules SET rules = $1", orjson.dumps({"rules": {"content": wild}}))
        assert (await _put(alice, "content", "y", pattern="y*")).errcode == "M_INVALID_PARAM"
        assert (await _put(alice, "content", "y", pattern="y")).status == 200


async def test_of_changes_at_the_same_time_none_is_lost(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        answers = await asyncio.gather(*(_put(alice, "sender", f"@u{n}:example.org") for n in range(4)))
        assert [answer.status for answer in answers] == [200] * 4
        assert sorted(await _ids(alice, "sender")) == [f"@u{n}:example.org" for n in range(4)]


async def test_ignored_users_stand_beside_the_rules(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        path = f"/user/{alice.quoted}/account_data/m.ignored_user_list"
        listed = {"ignored_users": {"@a:b": {}, "@c:d": {"x": 1}, "nobody": {}}}
        assert (await alice.call("PUT", path, listed)).json == {}
        assert (await alice.call("GET", path)).json == listed
        await _put(alice, "sender", _SENDER)
        record = await get_push_rules(worker.foundation.database, alice.user_id)
        assert (record.ignored, b"@loud" in record.rules) == (("@a:b", "@c:d"), True)
        assert [row.ignored for row in announced(worker)] == [("@a:b", "@c:d")] * 2
        for odd in ({}, {"ignored_users": []}):
            assert (await alice.call("PUT", path, odd)).json == {}
            record = await get_push_rules(worker.foundation.database, alice.user_id)
            assert (record.ignored, b"@loud" in record.rules) == ((), True)
        last = announced(worker)[-1]
        assert (last.position, last.rules, last.ignored) == (record.position, record.rules, ())
        # Of a room it is account data like any other.
        of_room = f"/user/{alice.quoted}/rooms/{_ROOM}/account_data/m.ignored_user_list"
        assert (await alice.call("PUT", of_room, listed)).json == {}
        assert (await get_push_rules(worker.foundation.database, alice.user_id)).ignored == ()


async def test_rules_of_open_proposals_are_switched_on(postgres: TestDatabase) -> None:
    switches = Experimental(msc4306_thread_subscriptions=True, msc4028_encrypted_events=True)
    async with client_api(postgres.dsn, make_config(experimental=switches)) as worker:
        alice = await worker.register("alice")
        rules = (await alice.call("GET", f"{_GLOBAL}/")).json
        assert list(rules) == ["override", "content", "postcontent", "room", "sender", "underride"]
        assert [rule["rule_id"] for rule in rules["postcontent"]] == [
            ".io.element.msc4306.rule.unsubscribed_thread", ".io.element.msc4306.rule.subscribed_thread"
        ]  # fmt: skip
        assert ".org.matrix.msc4028.encrypted_event" in [rule["rule_id"] for rule in rules["override"]]
        assert (await _put(alice, "postcontent", "mine", conditions=[_MATCH])).status == 200
        assert await _ids(alice, "postcontent") == ["mine"]


async def test_rules_follow_into_a_new_room(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        of_room = {"kind": "event_match", "key": "room_id", "pattern": _ROOM}
        await _put(alice, "override", _ROOM, actions=[], conditions=[of_room])
        await _put(alice, "override", "other", conditions=[of_room, _MATCH])
        await _put(alice, "room", _ROOM)
        await _put(alice, "content", _ROOM, pattern="x")
        rules = await _copy(worker, alice.user_id, "!new:example.org")
        assert [rule["rule_id"] for rule in rules["override"] if not rule["default"]] == [
            "other", "other !new:example.org", _ROOM, "!new:example.org"
        ]  # fmt: skip
        assert rules["override"][4]["conditions"] == [of_room | {"pattern": "!new:example.org"}]
        assert [rule["rule_id"] for rule in rules["room"]] == [_ROOM, "!new:example.org"]
        assert len(rules["content"]) == 1
        assert await _copy(worker, alice.user_id, "!new:example.org") == rules
        assert (await worker.sql("SELECT rooms FROM push_rules"))[0]["rooms"] == ["!new:example.org", _ROOM]


async def _copy(worker: ClientApi, user_id: str, room_id: str) -> Any:
    parts = worker.foundation
    rules = PushRulesWriter(parts.database, parts.writer, parts.announcer, ALL_OFF)
    await rules.copy_room_rules(user_id, _ROOM, room_id)
    return (await rules.get_ruleset(user_id))["global"]


async def test_many_changes_at_once_are_all_taken(postgres: TestDatabase) -> None:
    """A settings page sends its changes side by side."""
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


async def test_rules_of_a_kind_and_paths_with_and_without_slash(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        await alice.call("PUT", "/pushrules/global/content/bee/", {"actions": ["dont_notify"], "pattern": "bee"})
        whole = (await alice.call("GET", "/pushrules/")).json["global"]
        for kind in ("override", "content", "room", "sender", "underride"):
            for slash in ("", "/"):
                assert (await alice.call("GET", f"/pushrules/global/{kind}{slash}")).json == whole[kind], kind
        for path in ("/pushrules/global/content/bee", "/pushrules/global/content/bee/"):
            rule = (await alice.call("GET", path)).json
            assert rule["actions"] == ["dont_notify"], "as it was set"
        assert (await alice.call("GET", "/pushrules/global/nonsense/")).errcode == "M_INVALID_PARAM"
