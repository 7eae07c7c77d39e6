"""Questions of other servers about our users and aliases."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.fix_servers import TestDatabase
from tests.rigs.client_api import client_api
from tests.rigs.outside import OutsideWorld, Peer
from tests.rigs.requests import Answer
from tests.rigs.worker import SERVER
from tests.workers.federation_reader.rig import Reader, publishing_peer, reader


class Asking:
    def __init__(self, running: Reader, peer: Peer) -> None:
        self._running, self._peer = running, peer

    async def profile(self, user_id: str, field: str = "") -> Answer:
        uri = f"/_matrix/federation/v1/query/profile?user_id={quote(user_id, safe='')}"
        return await self._running.ask_as(self._peer, "GET", uri + (f"&field={field}" if field else ""))

    async def alias(self, alias: str) -> Answer:
        uri = f"/_matrix/federation/v1/query/directory?room_alias={quote(alias, safe='')}"
        return await self._running.ask_as(self._peer, "GET", uri)


@pytest.fixture
async def asking(postgres: TestDatabase, tmp_path: Path) -> AsyncIterator[Asking]:
    world = OutsideWorld(tmp_path)
    async with publishing_peer(world) as peer, reader(postgres.dsn, world) as running:
        yield Asking(running, peer)


async def test_profile_is_answered_whole_or_by_field(postgres: TestDatabase, asking: Asking) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        path = f"/profile/{quote(alice.user_id, safe='')}"
        body = {"displayname": "Alice A."}
        assert (await worker.call("PUT", f"{path}/displayname", body, token=alice.token)).status == 200
        whole = await asking.profile(alice.user_id)
        assert (whole.status, whole.json) == (200, {"displayname": "Alice A."})
        assert (await asking.profile(alice.user_id, "displayname")).json == {"displayname": "Alice A."}
        assert (await asking.profile(alice.user_id, "avatar_url")).json == {}
        assert (await asking.profile(alice.user_id, "org.example.x")).status == 404
        closed = {"auth": {"type": "m.login.password", "user": "alice", "password": "correct horse"}}
        assert (await worker.call("POST", "/account/deactivate", closed, token=alice.token)).status == 200
        assert (await asking.profile(alice.user_id)).status == 404


@pytest.mark.parametrize(
    ("user_id", "status", "errcode"),
    [
        (f"@nobody:{SERVER}", 404, "M_NOT_FOUND"),
        ("@alice:elsewhere.example", 400, "M_INVALID_PARAM"),
        ("alice", 400, "M_INVALID_PARAM"),
    ],
)
async def test_profile_of_nobody_here_is_refused(asking: Asking, user_id: str, status: int, errcode: str) -> None:
    answer = await asking.profile(user_id)
    assert (answer.status, answer.json["errcode"]) == (status, errcode)


@pytest.mark.parametrize(
    ("alias", "status", "errcode"),
    [
        (f"#nothing:{SERVER}", 404, "M_NOT_FOUND"),
        ("#a:elsewhere.example", 400, "M_INVALID_PARAM"),
        ("nothing", 400, "M_INVALID_PARAM"),
    ],
)
async def test_alias_of_nothing_here_is_refused(asking: Asking, alias: str, status: int, errcode: str) -> None:
    answer = await asking.alias(alias)
    assert (answer.status, answer.json["errcode"]) == (status, errcode)
