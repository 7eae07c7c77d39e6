"""Users with devices for tests of synchrotrons: client_api workers run beside them, on the same bus."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from replication.streams import PRESENCE
from shared.core.identifiers import UserId
from tests.rigs.client_api import ClientApi, User, client_api
from tests.rigs.synchrotron import Client, World
from tests.rigs.worker import SERVER


@asynccontextmanager
async def writers(dsn: str, world: World, count: int = 1) -> AsyncIterator[list[ClientApi]]:
    """Run client_api workers that publish on the world's bus."""
    if count == 0:
        yield []
        return
    async with client_api(dsn, name=f"client_api-{count}") as worker:
        keep = worker.bus.publish

        def publish(channel: str, message: bytes) -> None:
            keep(channel, message)
            world.bus.publish(channel, message)

        worker.bus.publish = publish  # type: ignore[method-assign]
        async with writers(dsn, world, count - 1) as others:
            yield [worker, *others]


@dataclass(slots=True)
class Person:
    """One device. It reads from a synchrotron and writes to a client_api worker."""

    reads: Client
    writes: User

    @property
    def user_id(self) -> UserId:
        return self.writes.user_id

    async def sync(self, since: str | None = None, **query: Any) -> Any:
        return await self.reads.sync(since, **query)

    def by(self, worker: ClientApi) -> User:
        """Return the same device, served by another client_api worker."""
        return User(worker, self.writes.user_id, self.writes.token, self.writes.device_id)


async def person(world: World, worker: ClientApi, name: str, device: str = "DEVICE") -> Person:
    """Register a user, or log in with another device of theirs."""
    known = await worker.sql("SELECT 1 FROM users WHERE user_id = $1", f"@{name}:{SERVER}")
    if not known:
        return Person(world.user(name, device), await worker.register(name, device_id=device))
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": name},
        "password": "correct horse",
        "device_id": device,
    }
    token = (await worker.call("POST", "/login", body)).json["access_token"]
    user = User(worker, UserId(f"@{name}:{SERVER}"), token, device)
    return Person(world.user(name, device), user)


async def send(sender: User, txn: str, to: Person, content: Any) -> None:
    messages = {to.user_id: {to.writes.device_id: content}}
    answer = await sender.call("PUT", f"/sendToDevice/m.x/{txn}", {"messages": messages})
    assert answer.status == 200, answer.body


def inbox(answer: Any) -> list[Any]:
    return [event["content"] for event in answer["to_device"]["events"]]


def lists(answer: Any) -> tuple[set[str], set[str]]:
    """Return (changed, left) of device_lists."""
    return set(answer["device_lists"]["changed"]), set(answer["device_lists"]["left"])


async def know_presence_writer(world: World, api: ClientApi) -> None:
    """Wait until every synchrotron knows the writer of presence, as after its first tick."""
    api.foundation.announcer.tick([PRESENCE], lambda _: 0)
    for process in world.synchrotrons:
        for _ in range(200):
            if process.foundation.follower.vector(PRESENCE).known >= api.foundation.lease:
                break
            await asyncio.sleep(0.02)
