"""Attacks by push rules and ignore lists, which every message in a room is judged by."""

from typing import Any
from urllib.parse import quote

from tests.hostile.enemy import Enemy, at_once, attack

_STARS = "*" + "a*" * 7
_ANY = "a?" * 15


def _rule_path(kind: str, number: int) -> str:
    return f"/pushrules/global/{kind}/hostile-{number}"


def _data_path(enemy: Enemy, account: int, type_: str) -> str:
    return f"/user/{quote(enemy.accounts[account].user_id, safe='')}/account_data/{type_}"


@attack
async def rules_about_long_lists(enemy: Enemy) -> None:
    """Rules whose 32 conditions each look for a value in a list, and messages with a list of 15,000 values."""
    conditions = [
        {"kind": "event_property_contains", "key": "content.list", "value": f"-{number}"} for number in range(32)
    ]
    rules = [
        enemy.request(
            "PUT",
            _rule_path("override", number % 40),
            {"conditions": conditions[number % 32 :], "actions": ["notify"]},
            account=number % 4,
        )
        for number in range(40)
    ]
    await at_once(rules)
    listed = {"msgtype": "m.text", "body": "list", "list": [str(number % 100) for number in range(12_000)]}
    await at_once([enemy.send(enemy.rooms[0], listed, account=number % 4) for number in range(8)])


@attack
async def patterns_that_almost_match(enemy: Enemy) -> None:
    """Patterns with as many wildcards as there may be, and messages that match all but their ends."""
    patterns = [f"{_STARS}{n}" for n in range(8)] + [f"{_ANY}{n}" for n in range(8)] + ["*" * 512, "a " * 250 + "b"]
    rules = [
        enemy.request(
            "PUT", _rule_path("content", n), {"pattern": pattern, "actions": ["notify"]}, account=enemy.unique() % 4
        )
        for n, pattern in enumerate(patterns)
    ]
    await at_once(rules)
    bodies = ("a" * 60_000, "a " * 30_000, "ab" * 30_000, "".join(map(chr, range(0x4E00, 0x4E00 + 19_000))))
    messages = [{"msgtype": "m.text", "body": bodies[n % 4]} for n in range(8)]
    await at_once([enemy.send(enemy.rooms[0], message, account=n % 4) for n, message in enumerate(messages)])


@attack
async def rules_that_flip(enemy: Enemy) -> None:
    """Rules that change before each message, so that they are compiled and announced again and again."""
    calls = []
    for number in range(40):
        path = _rule_path("override", 0) if number % 2 else "/pushrules/global/override/.m.rule.master/enabled"
        body: dict[str, Any] = {"conditions": [], "actions": []} if number % 2 else {"enabled": number % 4 == 0}
        calls.append(enemy.request("PUT", path, body, account=number % 4))
        calls.append(enemy.send(enemy.rooms[0], {"msgtype": "m.text", "body": "flip"}, account=number % 4))
    await at_once(calls)


@attack
async def long_ignore_lists(enemy: Enemy) -> None:
    """Lists of 30,000 ignored users, of as many as there may be, and of few users with long notes."""
    lists: tuple[dict[str, Any], ...] = (
        {f"@nobody-{number}:localhost": {} for number in range(28_000)},
        {f"@nobody-{number}-{enemy.unique()}:localhost": {} for number in range(2_000)},
        {f"@nobody-{number}:localhost": {"note": "x" * 25_000} for number in range(10)},
    )
    calls = []
    for number in range(12):
        body = {"ignored_users": lists[number % 3]}
        calls.append(
            enemy.request("PUT", _data_path(enemy, number % 4, "m.ignored_user_list"), body, account=number % 4)
        )
        calls.append(enemy.send(enemy.rooms[0], {"msgtype": "m.text", "body": "ignored"}, account=number % 4))
    await at_once(calls)
    await at_once(
        [
            enemy.request("PUT", _data_path(enemy, n, "m.ignored_user_list"), {"ignored_users": {}}, account=n)
            for n in range(4)
        ]
    )


@attack
async def mentions_of_thousands(enemy: Enemy) -> None:
    """Messages that mention 3,000 users, some of them members."""
    ids = [account.user_id for account in enemy.accounts] + [f"@n{number}:localhost" for number in range(3_000)]
    content = {"msgtype": "m.text", "body": "you", "m.mentions": {"user_ids": ids, "room": True}}
    await at_once([enemy.send(enemy.rooms[0], content, account=n % 4) for n in range(16)])
