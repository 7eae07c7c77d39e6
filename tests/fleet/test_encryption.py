"""Encryption with real clients: matrix-js-sdk and its Rust crypto make Olm and Megolm sessions through the fleet."""

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.fix_fleet import RunningFleet, StartFleet
from tests.fleet.clients.chat_client import ClientError
from tests.fleet.clients.js_client import JsClient, JsProcess

PASSWORD = "correct horse battery staple"
_WAIT_S = 40.0
_BETWEEN_KILLS_S = 2.5
_LEAST_MESSAGES = 6
_ATTEMPTS = 8
_ENCRYPTED = {
    "preset": "private_chat",
    "initial_state": [{"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}],
}
_transactions = itertools.count(1)


async def _say(sender: JsClient, room: str, body: str, listeners: Sequence[JsClient]) -> None:
    """Send a message and check that every listener decrypts it."""
    event = await sender.send(room, body, f"say-{next(_transactions)}")
    read = await asyncio.gather(*(listener.wait_decrypted(event, _WAIT_S) for listener in listeners))
    assert list(read) == [body] * len(listeners)


async def _invite(room: str, host: JsClient, guest: JsClient) -> None:
    await host.invite(room, guest.user_id)
    await guest.wait_membership(room, "invite", _WAIT_S)
    await guest.join(room)
    await guest.wait_membership(room, "join", _WAIT_S)


async def _start(person: JsClient, sliding: bool) -> None:
    """Start to sync, with sliding or classic sync."""
    if sliding:
        wanted = {"timeline_limit": 20, "required_state": [["*", "*"]]}
        await person.start_sliding({"all": {"ranges": [[0, 99]], **wanted}}, wanted, encrypted=True)
    else:
        await person.start(20, encrypted=True)


@pytest.mark.parametrize("sliding", [False, True])
async def test_only_current_devices_read_encrypted_messages(
    fleet: RunningFleet, js_clients: Path, tmp_path: Path, sliding: bool
) -> None:
    """Two users, one with two devices. A device is added later, another logs out, and only members read messages."""
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(JsProcess.running(js_clients, tmp_path / "node.log"))
        names = (f"secret-{name}-{sliding:d}" for name in ("alice", "bob"))
        alice, bob = (JsClient(node, fleet.client_url, name) for name in names)
        for person in (alice, bob):
            await person.register(PASSWORD)
            await _start(person, sliding)
            stack.push_async_callback(person.stop)
        room = await alice.create_room({**_ENCRYPTED})
        await _invite(room, alice, bob)
        await _say(alice, room, "to one device", [bob])
        await _say(bob, room, "and back", [alice])
        second = JsClient(node, fleet.client_url, bob.username, label=f"{bob.username}-2")
        await second.login(PASSWORD)
        await _start(second, sliding)
        stack.push_async_callback(second.stop)
        # Alice learns of the new device from /sync before she sends.
        await alice.wait_device(bob.user_id, await second.device_id(), True, _WAIT_S)
        await _say(alice, room, "to both devices", [bob, second])
        await _say(second, room, "from the new one", [alice, bob])
        gone = await second.device_id()
        await second.logout()
        await alice.wait_device(bob.user_id, gone, False, _WAIT_S)
        await _say(alice, room, "to the one that is left", [bob])
        claims = [claim for person in (alice, bob) for claim in await person.claims()]
        assert claims and len(set(claims)) == len(claims), "a one-time key was given twice"


async def test_encrypted_messages_survive_worker_kills(
    start_fleet: StartFleet, js_clients: Path, tmp_path: Path
) -> None:
    """Each client_api and each synchrotron is killed while every message begins a new session.

    The others read each acknowledged message, and no one-time key is given out twice.
    """
    fleet = start_fleet(fleet={"client_api": 2, "synchrotron": 2})

    async def kill_in_turn() -> None:
        for name in ("client_api-1", "synchrotron-1", "client_api-2", "synchrotron-2"):
            await asyncio.sleep(_BETWEEN_KILLS_S)
            fleet.kill(name)

    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(JsProcess.running(js_clients, tmp_path / "node.log"))
        people = [JsClient(node, fleet.client_url, f"killed-{number}") for number in range(3)]
        for person in people:
            await person.register(PASSWORD)
            await person.start(20, encrypted=True)
            stack.push_async_callback(person.stop)
        room = await people[0].create_room({**_ENCRYPTED})
        for guest in people[1:]:
            await _invite(room, people[0], guest)
        kills = asyncio.create_task(kill_in_turn())
        said: list[tuple[str, str]] = []
        for number in itertools.count():
            if kills.done() and number >= _LEAST_MESSAGES:
                break
            # A new session each time. Its key goes to every device of the others as a to-device message.
            sender = people[number % len(people)]
            await sender.forget_session(room)
            said.append((await _send_until_answered(sender, room, f"message {number}"), sender.user_id))
            await asyncio.sleep(0.2)
        await kills
        for event, author in said:
            listeners = [person for person in people if person.user_id != author]
            await asyncio.gather(*(listener.wait_decrypted(event, _WAIT_S) for listener in listeners))
        claims = [claim for person in people for claim in await person.claims()]
        assert claims and len(set(claims)) == len(claims), "a one-time key was given twice"


async def _send_until_answered(sender: JsClient, room: str, body: str) -> str:
    """Send, and retry when a worker was killed during the request."""
    for _ in range(_ATTEMPTS):
        try:
            return await sender.send(room, body, f"say-{next(_transactions)}")
        except ClientError:
            await asyncio.sleep(1.0)
    raise AssertionError("no answer after several attempts")
