"""Twenty people, half with matrix-nio and half with matrix-js-sdk, talk in forty rooms through haproxy.

Issue 2, "Done when" 2 and 4. The `soak` test runs longer.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from shared.core.slots import slot_of
from tests.fix_fleet import RunningFleet
from tests.fleet.clients.chat_client import ChatClient
from tests.fleet.clients.js_client import JsClient, JsProcess
from tests.fleet.clients.nio_client import NioClient
from tests.fleet.conversation import ROOM_VERSIONS, Cast, Ledger, Scale, hold, plan
from tests.fleet.conversation_check import check_all, check_same_view, settled_view
from tests.fleet.observing import owner_of, requests_served, wait_for_process
from tests.room_checks import assert_fleet_rooms_agree

USUAL = Scale(users=20, rooms=40, messages=2_000, rooms_at_once=14)
SOAK = Scale(users=60, rooms=240, messages=24_000, rooms_at_once=24)
#: For the second conversation, during which synchrotrons come and go.
SMALL = Scale(users=10, rooms=12, messages=600, rooms_at_once=12)

PASSWORD = "correct horse battery staple"
_STARTS_AT_ONCE = 4
#: haproxy must use a new synchrotron within this time after it is ready.
_JOIN_LIMIT_S = 5.0


async def test_every_client_sees_every_message(fleet: RunningFleet, js_clients: Path, tmp_path: Path) -> None:
    await _converse(fleet, js_clients, tmp_path, USUAL, "talk")
    await assert_fleet_rooms_agree(fleet)


@pytest.mark.soak
async def test_every_client_sees_every_message_in_a_long_conversation(
    fleet: RunningFleet, js_clients: Path, tmp_path: Path
) -> None:
    await _converse(fleet, js_clients, tmp_path, SOAK, "long")


async def _converse(fleet: RunningFleet, js_clients: Path, tmp_path: Path, scale: Scale, prefix: str) -> None:
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(JsProcess.running(js_clients, tmp_path / "node.log"))
        clients = await _people(stack, fleet, node, scale, prefix)
        ledgers = await hold(plan(clients, scale, seed=1), scale)
        _check_placement(fleet.status(), ledgers)
        await check_all(clients, ledgers)
        await _check_new_devices(fleet, node, clients, ledgers)
        _check_everyone_took_part(fleet)


async def test_synchrotron_joins_and_leaves_during_a_conversation(
    fleet: RunningFleet, js_clients: Path, tmp_path: Path
) -> None:
    """No file is edited. haproxy uses the new synchrotron within 5 s, and no client notices the change."""
    await _converse_while_one_joins(fleet, js_clients, tmp_path)


async def _converse_while_one_joins(fleet: RunningFleet, js_clients: Path, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(JsProcess.running(js_clients, tmp_path / "node.log"))
        clients = await _people(stack, fleet, node, SMALL, "join")
        casts = plan(clients, SMALL, seed=2)
        before, after = casts[: len(casts) // 2], casts[len(casts) // 2 :]
        talk = asyncio.create_task(hold(before, SMALL))
        files = _configuration_files(fleet)
        known = {each["name"] for each in fleet.status()["processes"]}
        worker = fleet.add_worker("synchrotron")
        added = await wait_for_process(fleet, lambda each: each["name"] not in known and each["ready"])
        await _until_used(added, time.monotonic())
        ledgers = [*await talk, *await _converse_and_stop(after, worker)]
        await check_all(clients, ledgers)
        assert _configuration_files(fleet) == files


def _configuration_files(fleet: RunningFleet) -> dict[Path, bytes]:
    """Return the files that somebody might have edited: the fleet's configuration, and haproxy's with its maps."""
    run = fleet.config.parent
    paths = (fleet.directory / "skep.yaml", fleet.config, *run.glob("haproxy/**/*"))
    return {path: path.read_bytes() for path in paths if path.is_file()}


async def _until_used(process: dict[str, Any], ready_s: float) -> None:
    """Wait until a process has served /sync. Clients long-poll all the time, so haproxy soon uses a server it knows."""
    while not await asyncio.to_thread(requests_served, process, "get_sync"):
        assert time.monotonic() - ready_s < _JOIN_LIMIT_S, "haproxy does not use the new synchrotron"
        await asyncio.sleep(0.1)


async def _converse_and_stop(casts: Sequence[Cast], worker: Any) -> list[Ledger]:
    talk = asyncio.create_task(hold(casts, SMALL))
    await asyncio.sleep(1)
    worker.terminate()
    assert await asyncio.to_thread(worker.wait, 15) == 0, "a drained worker exits with 0"
    return await talk


async def _people(
    stack: AsyncExitStack, fleet: RunningFleet, node: JsProcess, scale: Scale, prefix: str
) -> list[ChatClient]:
    """Register all users and start to sync. The two kinds of client alternate."""
    clients: list[ChatClient] = []
    for number in range(scale.users):
        name = f"{prefix}-{number}"
        clients.append(NioClient(fleet.client_url, name) if number % 2 else JsClient(node, fleet.client_url, name))
    places = asyncio.Semaphore(_STARTS_AT_ONCE)

    async def begin(client: ChatClient) -> None:
        async with places:
            await client.register(PASSWORD)
            await client.start(scale.nio_timeline if isinstance(client, NioClient) else scale.js_timeline)
            stack.push_async_callback(client.stop)

    await asyncio.gather(*(begin(client) for client in clients))
    return clients


def _check_placement(status: dict[str, Any], ledgers: Sequence[Ledger]) -> None:
    """Check that each persister owns rooms of each version."""
    found = {(owner_of(status, "rooms", slot_of(each.room)), each.cast.version) for each in ledgers}
    persisters = [each["name"] for each in status["processes"] if each["type"] == "event_persister"]
    assert len(persisters) >= 2
    assert found == {(name, version) for name in persisters for version in ROOM_VERSIONS}


async def _check_new_devices(
    fleet: RunningFleet, node: JsProcess, clients: Sequence[ChatClient], ledgers: Sequence[Ledger]
) -> None:
    """Check that a new device, with either client, sees by initial sync and paging what the others saw live."""
    for known in clients[:2]:
        kept = [each for each in ledgers if known in each.cast.staying]
        device: ChatClient
        if isinstance(known, NioClient):
            device = NioClient(fleet.client_url, known.username)
        else:
            device = JsClient(node, fleet.client_url, known.username, label=f"{known.username} again")
        await device.login(PASSWORD)
        try:
            await device.start(timeline_limit=3)
            view, before = await settled_view(device, kept), await known.view([each.room for each in kept])
            check_same_view(f"{known.username} on a new device", view, before)
        finally:
            await device.stop()


def _check_everyone_took_part(fleet: RunningFleet) -> None:
    """Check that each persister has stored messages and each synchrotron has served syncs."""
    for process in fleet.status()["processes"]:
        if process["type"] == "event_persister":
            assert requests_served(process, "send_event"), process["name"]
        if process["type"] == "synchrotron":
            assert requests_served(process, "get_sync"), process["name"]
