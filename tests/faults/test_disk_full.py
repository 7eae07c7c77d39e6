"""A disk that is full in earnest: a tablespace on a file system of a few megabytes."""

import asyncio
import itertools
import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from tests.fix_servers import TestDatabase
from tests.rigs.client_api import client_api, password_login
from tests.rigs.directories import server_directory
from tests.rigs.persister import event_persister

_SIZE_MB = 12
_TABLES = ("events", "access_tokens", "account_data")
_numbers = itertools.count(1)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A mounted file system that belongs to PostgreSQL's user."""
    with server_directory("small-disk") as directory:
        mount = directory / "disk"
        mount.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_SIZE_MB}m", "tmpfs", str(mount)], check=False, capture_output=True
        )
        if mounted.returncode:
            pytest.skip("this user may not mount a file system")
        try:
            yield mount
        finally:
            subprocess.run(["umount", "--lazy", str(mount)], check=True)


@asynccontextmanager
async def _tables_on(disk: Path, dsn: str) -> AsyncIterator[None]:
    """Keep the tables that grow on the disk."""
    conn = await asyncpg.connect(dsn)
    name = f"small_{next(_numbers)}"
    folder = _folder(disk, await conn.fetchval("SHOW data_directory"))
    await conn.execute(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
    for table in _TABLES:
        await conn.execute(f"ALTER TABLE {table} SET TABLESPACE {name}")
    yield
    for table in _TABLES:
        await conn.execute(f"ALTER TABLE {table} SET TABLESPACE pg_default")
    await conn.execute(f"DROP TABLESPACE {name}")
    await conn.close()


def _folder(disk: Path, data_directory: str) -> Path:
    """Make a folder that belongs to PostgreSQL's user."""
    owner, folder = Path(data_directory).stat(), disk / "tables"
    folder.mkdir()
    os.chown(folder, owner.st_uid, owner.st_gid)
    return folder


def _fill(disk: Path) -> Path:
    """Leave no room on the disk. Return the file that takes it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return ballast


async def test_full_disk_answers_503_and_loses_nothing(small_disk: Path, postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn) as persister, _tables_on(small_disk, postgres.dsn):
        alice = persister.user("alice")
        room_id = await alice.create_room()
        ballast = _fill(small_disk)
        kept, statuses = [], set()
        for number in range(60):
            text = f"{number} {secrets.token_hex(10_000)}"
            answers = await asyncio.gather(*(alice.send(room_id, f"{part} {text}") for part in range(3)))
            for part, answer in enumerate(answers):
                statuses.add(answer.status)
                if answer.status == 200:
                    kept.append(f"{part} {text}")
                else:
                    assert "retry-after" in answer.headers, answer.body
            if statuses == {200, 503} and number > 20:
                break
        assert 503 in statuses and statuses <= {200, 503}
        ballast.unlink()
        assert (await alice.send(room_id, "the last")).status == 200
        rows = await persister.foundation.database.fetch(
            "SELECT json FROM events WHERE type = 'm.room.message' ORDER BY ordinal"
        )
        stored = [row[0].decode() for row in rows]
        assert len(stored) == len(kept) + 1
        assert all(any(text in json for json in stored) for text in kept)


async def test_full_disk_answers_503_to_logins_and_account_data(small_disk: Path, postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker, _tables_on(small_disk, postgres.dsn):
        alice = await worker.register("alice")
        ballast = _fill(small_disk)
        statuses = set()
        for number in range(40):
            content = {"text": secrets.token_hex(20_000)}
            path = f"/user/{alice.quoted}/account_data/org.example.{number}"
            answer = await alice.call("PUT", path, content)
            statuses.add(answer.status)
            assert answer.status == 200 or "retry-after" in answer.headers, answer.body
        assert 503 in statuses and statuses <= {200, 503}
        logins = {(await worker.call("POST", "/login", password_login("alice"))).status for _ in range(5)}
        assert logins <= {200, 503}
        assert (await alice.call("GET", "/account/whoami")).status == 200
        ballast.unlink()
        assert (await alice.call("PUT", path, content)).status == 200
        assert (await worker.call("POST", "/login", password_login("alice"))).status == 200
