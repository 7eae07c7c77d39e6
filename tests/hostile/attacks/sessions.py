"""Attacks at sessions and at background work: tokens shown many times, log-ins in a race, texts that take long."""

import asyncio
import random
import string
from typing import Any
from urllib.parse import quote

from tests.hostile.enemy import Account, Enemy, at_once, attack


def _password(account: Account) -> dict[str, Any]:
    identifier = {"type": "m.id.user", "user": account.user_id}
    return {"type": "m.login.password", "identifier": identifier, "password": account.password}


@attack
async def refresh_tokens_shown_at_once(enemy: Enemy) -> None:
    """The turns of one user's sessions: a refresh token shown forty times at once, again and again."""
    body = _password(enemy.accounts[1]) | {"refresh_token": True, "device_id": "REFRESHED"}
    pair = await enemy.ask("POST", "/login", body, account=None)
    while True:
        shown = {"refresh_token": pair["refresh_token"]}
        await at_once([enemy.request("POST", "/refresh", shown, account=None) for _ in range(40)])
        await asyncio.sleep(0.05)


@attack
async def logins_beside_changes_of_the_password(enemy: Enemy) -> None:
    """Sessions that begin, end and change their password at the same time. The password stays the same."""
    account = enemy.accounts[2]
    change = {"new_password": account.password, "logout_devices": False, "auth": _password(account)}
    login = _password(account) | {"device_id": "RACING"}
    delete = {"devices": ["RACING"], "auth": _password(account)}
    await at_once(
        [
            *(
                enemy.request("POST", "/login", login, account=None, source=enemy.address(enemy.unique() % 2_000))
                for _ in range(10)
            ),
            *(enemy.request("POST", "/account/password", change, account=2) for _ in range(3)),
            *(enemy.request("POST", "/delete_devices", delete, account=2) for _ in range(3)),
        ]
    )


@attack
async def texts_that_take_long_to_index(enemy: Enemy) -> None:
    """The time limit of the search index's statements: messages of 50 KB of distinct words, and of no words at all."""
    words = " ".join("".join(random.choices(string.ascii_lowercase, k=7)) for _ in range(6_000))
    signs = "".join(chr(random.randrange(0x4E00, 0x9FFF)) for _ in range(16_000))
    for text in (words, signs):
        await at_once([enemy.send(enemy.rooms[0], {"msgtype": "m.text", "body": text}) for _ in range(10)])


@attack
async def names_in_a_hurry(enemy: Enemy) -> None:
    """The queue of the user directory, and the member events of all rooms: the display name changes all the time."""
    path = f"/profile/{quote(enemy.accounts[3].user_id, safe='')}/displayname"
    names = ["".join(chr(random.randrange(0x4E00, 0x9FFF)) for _ in range(200)) for _ in range(20)]
    await at_once([enemy.request("PUT", path, {"displayname": name}, account=3) for name in names])
