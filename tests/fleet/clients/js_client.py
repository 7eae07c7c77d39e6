"""matrix-js-sdk: one Node process runs many clients and takes commands as lines of JSON (tests/fleet/js/client.mjs)."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from tests.fix_js_clients import NODE
from tests.fleet.clients.chat_client import ClientError, RoomView, SeenEvent, View

#: The longest line from Node is the view of a client that knows every event.
_LINE_LIMIT_BYTES = 64 * 2**20
_CALL_LIMIT_S = 60.0


class JsProcess:
    """A running Node process. Calls of several clients overlap."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, directory: Path, log: Path) -> AsyncIterator["JsProcess"]:
        """Run Node for the length of the block.

        directory: the fixture `js_clients`
        log: the file for Node's standard error
        """
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                NODE,
                "--no-warnings",
                "client.mjs",
                cwd=directory,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=_LINE_LIMIT_BYTES,
            )
        self = cls(process)
        reader = asyncio.create_task(self._read())
        try:
            yield self
        finally:
            if process.stdin is not None:
                process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 5)
            if process.returncode is None:
                process.kill()
                await process.wait()
            await reader

    async def call(self, user: str, op: str, **options: Any) -> Any:
        """Run an operation of a client and return its result. Raises ClientError."""
        assert self._process.stdin is not None
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": number, "user": user, "op": op, **options})
        self._process.stdin.write(line.encode() + b"\n")
        try:
            async with asyncio.timeout(_CALL_LIMIT_S):
                return await answer
        except TimeoutError:
            raise ClientError(f"{user} {op} {options}: no answer within {_CALL_LIMIT_S} s") from None
        finally:
            self._waiting.pop(number, None)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = json.loads(line)
            answer = self._waiting.pop(message["id"], None)
            if answer is None or answer.done():
                continue
            if error := message.get("error"):
                answer.set_exception(ClientError(error["message"], error["status"], error["errcode"]))
            else:
                answer.set_result(message["result"])
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ClientError("Node ended"))


class JsClient:
    """One matrix-js-sdk client; implements ChatClient."""

    def __init__(self, process: JsProcess, url: str, username: str, label: str | None = None) -> None:
        """Make a client. label: distinguishes two devices of one user."""
        self.username = username
        self.user_id = ""
        self._process = process
        self._url = url
        self._label = label or username

    async def register(self, password: str) -> None:
        await self._call("create", url=self._url)
        self.user_id = await self._call("register", username=self.username, password=password)

    async def login(self, password: str) -> None:
        await self._call("create", url=self._url)
        self.user_id = await self._call("login", username=self.username, password=password)

    async def start(self, timeline_limit: int, *, encrypted: bool = False) -> None:
        await self._call("start", timeline_limit=timeline_limit, encrypted=encrypted)

    async def start_sliding(
        self, lists: dict[str, Any], subscription: dict[str, Any], *, encrypted: bool = False
    ) -> None:
        """Start with sliding sync in its deployed form. lists, subscription: as in the request."""
        await self._call("start_sliding", lists=lists, subscription=subscription, encrypted=encrypted)

    async def set_ranges(self, list_name: str, ranges: list[list[int]]) -> None:
        await self._call("set_ranges", list=list_name, ranges=ranges)

    async def subscribe(self, rooms: Iterable[str]) -> None:
        await self._call("subscribe", rooms=list(rooms))

    async def room_list(self) -> list[dict[str, Any]]:
        """Return the rooms with their names and unread counts, latest activity first."""
        return list(await self._call("room_list"))

    async def wait_event(self, room: str, event: str, timeout_s: float) -> None:
        await self._call("wait_event", room=room, event=event, timeout_s=timeout_s)

    async def stop(self) -> None:
        await self._call("stop")

    async def create_room(self, options: dict[str, Any]) -> str:
        return str(await self._call("create_room", options=options))

    async def join(self, room_or_alias: str) -> str:
        return str(await self._call("join", room=room_or_alias))

    async def leave(self, room: str) -> None:
        await self._call("leave", room=room)

    async def forget(self, room: str) -> None:
        await self._call("forget", room=room)

    async def invite(self, room: str, invitee: str) -> None:
        await self._call("invite", room=room, invitee=invitee)

    async def send(self, room: str, body: str, transaction_id: str) -> str:
        return await self._send("send", room, body, transaction_id)

    async def send_again(self, room: str, body: str, transaction_id: str) -> str:
        return await self._send("send_again", room, body, transaction_id)

    async def _send(self, op: str, room: str, body: str, transaction_id: str) -> str:
        content = {"msgtype": "m.text", "body": body}
        return str(await self._call(op, room=room, content=content, transaction_id=transaction_id))

    async def set_state(self, room: str, event_type: str, content: dict[str, Any]) -> str:
        return str(await self._call("set_state", room=room, type=event_type, content=content))

    async def redact(self, room: str, event: str) -> str:
        return str(await self._call("redact", room=room, event=event))

    async def set_typing(self, room: str, typing: bool) -> None:
        await self._call("set_typing", room=room, typing=typing)

    async def send_receipt(self, room: str, event: str) -> None:
        await self._call("send_receipt", room=room, event=event)

    async def joined_rooms(self) -> set[str]:
        return set(await self._call("joined_rooms"))

    async def wait_membership(self, room: str, membership: str, timeout_s: float) -> None:
        await self._call("wait_membership", room=room, membership=membership, timeout_s=timeout_s)

    async def wait_typing(self, room: str, user: str, typing: bool, timeout_s: float) -> None:
        await self._call("wait_typing", room=room, typist=user, typing=typing, timeout_s=timeout_s)

    async def device_id(self) -> str:
        return str(await self._call("device"))

    async def logout(self) -> None:
        await self._call("logout")

    async def wait_decrypted(self, event: str, timeout_s: float) -> str:
        """Return the text of an encrypted event that this client has decrypted."""
        return str(await self._call("wait_decrypted", event=event, timeout_s=timeout_s))

    async def forget_session(self, room: str) -> None:
        """Make the next message in the room begin a new Megolm session."""
        await self._call("forget_session", room=room)

    async def wait_device(self, whose: str, device: str, known: bool, timeout_s: float) -> None:
        """Wait until this client would encrypt for a device, or would no more."""
        await self._call("wait_device", whose=whose, device=device, known=known, timeout_s=timeout_s)

    async def claims(self) -> list[tuple[str, str, str]]:
        """Return (user, device, key id) of every one-time key that this client was given."""
        return [(user, device, key) for user, device, key in await self._call("claims")]

    async def view(self, rooms: Iterable[str]) -> View:
        answer = await self._call("view", rooms=list(rooms))
        views = {room: _room_view(raw) if raw else None for room, raw in answer["rooms"].items()}
        return View(views, tuple(f"{event} was delivered twice" for event in answer["doubled"]))

    async def _call(self, op: str, **options: Any) -> Any:
        return await self._process.call(self._label, op, **options)


def _room_view(raw: dict[str, Any]) -> RoomView:
    return RoomView(
        membership=raw["membership"],
        events=tuple(SeenEvent(**event) for event in raw["events"]),
        members={user: what for user, what in raw["members"].items() if what in ("join", "invite")},
        name=raw["name"],
        topic=raw["topic"],
        receipts={user: event for user, event in raw["receipts"].items() if event},
    )
