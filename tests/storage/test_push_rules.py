"""Users' push rules and ignore lists, which are in one row: fenced writes, and reads as rows of the stream."""

from collections.abc import Sequence

import orjson
import pytest

from shared.core.identifiers import RoomId, UserId
from shared.core.rows import PushRulesRow
from shared.storage.engine.schema_version import migrations
from shared.storage.push.rules import (
    SET_IGNORED_USERS,
    SET_PUSH_RULES,
    PushRulesRecord,
    SetIgnoredUsers,
    SetPushRules,
    get_push_rules,
)
from shared.storage.streams.catch_up import PUSH_RULES, first_page
from tests.fix_servers import TestDatabase
from tests.storage.one_writer import writing

ODD = UserId("@a\x00b\x1a0:x")
_ME = UserId("@me:x")


def _push_rules(rules: bytes, expected: int, *, everywhere: bool = False, rooms: Sequence[RoomId] = ()) -> SetPushRules:
    return SetPushRules(user_id=_ME, rules=rules, everywhere=everywhere, rooms=list(rooms), expected=expected)


def _ignored(json: bytes | None, users: list[UserId], expected: int | None) -> SetIgnoredUsers:
    return SetIgnoredUsers(user_id=_ME, json=json, ignored=users, expected=expected, max_bytes=1 << 20)


async def test_writes_of_rules_keep_ignored_users_and_vice_versa(postgres: TestDatabase) -> None:
    async with writing(postgres.dsn) as writer:
        rules, rooms = b'{"defaults":{}}', [RoomId("!a:x"), RoomId("!b:x")]
        first = await writer.write(SET_PUSH_RULES, _push_rules(rules, 0, everywhere=True, rooms=rooms))
        assert (first["fence"], first["ignored"]) == (1, [])
        for stale in (0, first["position"] - 1, first["position"] + 5):
            refused = await writer.write(SET_PUSH_RULES, _push_rules(b"other", stale))
            assert (refused["fence"], refused["position"]) == (1, None)
        ignoring = await writer.write(SET_IGNORED_USERS, _ignored(b"{}", [ODD, UserId("@b:x")], None))
        assert ignoring["rules_position"] > first["position"]
        assert bytes(ignoring["rules"]) == rules
        record = await get_push_rules(writer.conn, _ME)
        assert (record.rules, record.ignored, record.position) == (rules, (ODD, "@b:x"), ignoring["rules_position"])
        stored = await writer.conn.fetchrow("SELECT everywhere, rooms FROM push_rules")
        assert stored is not None
        assert tuple(stored) == (True, [RoomId("!a:x"), RoomId("!b:x")])

        again = await writer.write(SET_PUSH_RULES, _push_rules(b"", ignoring["rules_position"]))
        assert again["ignored"] == [ODD, UserId("@b:x")]
        [row] = await first_page(writer.conn, PUSH_RULES, 0, 10)
        read = PushRulesRow(**row)
        assert read == PushRulesRow(
            position=again["position"], writer=read.writer, user_id=_ME, rules=b"", ignored=(ODD, UserId("@b:x"))
        )


async def test_ignore_list_is_written_only_if_its_position_is_the_expected_one(postgres: TestDatabase) -> None:
    async with writing(postgres.dsn) as writer:
        done = await writer.write(SET_IGNORED_USERS, _ignored(b"{}", [UserId("@b:x")], 0))
        refused = await writer.write(SET_IGNORED_USERS, _ignored(b"[]", [UserId("@c:x")], done["position"] - 1))
        assert (refused["position"], refused["rules_position"]) == (None, None)
        assert (await get_push_rules(writer.conn, _ME)).ignored == ("@b:x",)
        deleted = await writer.write(SET_IGNORED_USERS, _ignored(None, [], done["position"]))
        assert deleted["position"] > done["position"]
        assert (await get_push_rules(writer.conn, _ME)).ignored == ()
        assert await get_push_rules(writer.conn, UserId("@other:x")) == PushRulesRecord()


@pytest.mark.parametrize(
    ("content", "ignored"),
    [
        (orjson.dumps({"ignored_users": {"@b:x": {}, "@c:x": {"a": [1]}}}), ("@b:x", "@c:x")),
        (b'{"ignored_users": {"@b:x": {}, "@b:x": {}}}', ("@b:x",)),
        (b'{"ignored_users": {}}', ()),
        (b'{"ignored_users": ["@b:x"]}', ()),
        (b'{"ignored_users": 7}', ()),
        (b"{}", ()),
        (b'{"ignored_users": {"@b:x": {}, "\\u0000": {}}}', ()),
        (b'{"ignored_users": {"@b:x": {"x": "\\ud83d"}}}', ()),
        (None, ()),
    ],
)
async def test_migration_copies_the_ignore_lists_of_account_data(
    postgres_module: TestDatabase, content: bytes | None, ignored: tuple[str, ...]
) -> None:
    [migration] = [each for each in migrations() if each.name == "push_rules"]
    async with writing(postgres_module.dsn) as writer:
        await writer.conn.execute("DROP TABLE push_rules; DROP SEQUENCE stream_push_rules; DELETE FROM account_data")
        for room_id, type_ in (("", "m.ignored_user_list"), ("!r:x", "m.ignored_user_list"), ("", "m.other")):
            await writer.conn.execute(
                "INSERT INTO account_data VALUES ($1, $2, $3, $4, 7, nextval('stream_account_data'))",
                _ME,
                room_id,
                type_,
                content,
            )
        await writer.conn.execute(migration.sql)
        record = await get_push_rules(writer.conn, _ME)
        assert (record.ignored, record.rules, record.writer) == (ignored, b"", 7 if ignored else 0)
