"""Attacks by the form of a body: deep, wide, wrong, and large where nobody expects it."""

from urllib.parse import quote

from tests.hostile.enemy import Enemy, at_once, attack

_LARGE = 1_000_000


def _message_path(enemy: Enemy) -> str:
    return f"/rooms/{quote(enemy.rooms[0], safe='')}/send/m.room.message/body-{enemy.unique()}"


@attack
async def deep_bodies(enemy: Enemy) -> None:
    """Recursion: arrays and objects of a depth of 400,000."""
    arrays, objects = b"[" * 400_000 + b"]" * 400_000, b'{"a":' * 160_000 + b"1" + b"}" * 160_000
    await at_once(
        [enemy.request("PUT", _message_path(enemy), (arrays, objects)[n % 2], account=n % 4) for n in range(8)]
    )


@attack
async def wide_bodies(enemy: Enemy) -> None:
    """Objects of 60,000 keys, which are sorted and hashed if they are taken."""
    wide = b"{" + b",".join(b'"%d":0' % n for n in range(60_000)) + b"}"
    await at_once([enemy.request("PUT", _message_path(enemy), wide, account=n % 4) for n in range(8)])


@attack
async def long_numbers(enemy: Enemy) -> None:
    """Numbers of 300,000 digits, whose conversion takes quadratic time."""
    number = b'{"body":' + b"9" * 300_000 + b"}"
    await at_once([enemy.request("PUT", _message_path(enemy), number, account=n % 4) for n in range(8)])


@attack
async def many_escapes(enemy: Enemy) -> None:
    """Strings that are six times as long in JSON as in memory, and the other way round."""
    texts = (b"\\u0001" * 160_000, "\U0001f41d".encode() * 240_000)
    bodies = [b'{"body":"' + text + b'"}' for text in texts]
    await at_once([enemy.request("PUT", _message_path(enemy), bodies[n % 2], account=n % 4) for n in range(8)])


@attack
async def large_rooms_at_creation(enemy: Enemy) -> None:
    """A creation with 2,000 invitations, one with 2,000 state events, one with a large member list."""
    invitations = {"invite": [f"@nobody-{n}:localhost" for n in range(2_000)]}
    states = {"initial_state": [{"type": f"m.{n}", "content": {"n": n}} for n in range(2_000)]}
    users = {"power_level_content_override": {"users": {f"@nobody-{n}:localhost": 1 for n in range(2_000)}}}
    await at_once(
        [enemy.request("POST", "/createRoom", (invitations, states, users)[n % 3], account=n % 4) for n in range(6)]
    )


@attack
async def large_own_data(enemy: Enemy) -> None:
    """A megabyte of account data again and again, for every room and type."""
    account = enemy.accounts[0]
    path = f"/user/{quote(account.user_id, safe='')}/account_data/hostile."
    body = {"large": "x" * (_LARGE - 100)}
    await at_once([enemy.request("PUT", f"{path}{n}", body) for n in range(10)])


@attack
async def questions_about_everybody(enemy: Enemy) -> None:
    """Device keys of 10,000 users at once, one-time keys of as many, and a message to all their devices."""
    users = [f"@nobody-{n}:localhost" for n in range(10_000)]
    query: dict[str, dict[str, list[str]]] = {"device_keys": {user: [] for user in users}}
    claim = {"one_time_keys": {user: {"D": "signed_curve25519"} for user in users}}
    to_all = {"messages": {user: {"*": {"a": 1}} for user in users}}
    calls = []
    for n in range(4):
        calls.append(enemy.request("POST", "/keys/query", query, account=n))
        calls.append(enemy.request("POST", "/keys/claim", claim, account=n))
        calls.append(enemy.request("PUT", f"/sendToDevice/m.hostile/{enemy.unique()}", to_all, account=n))
    await at_once(calls)
