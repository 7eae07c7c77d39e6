"""Users who write into a chosen stream, with direct connections to the owners of their slots or rooms."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import asyncpg
import orjson

from load.harness.clients import Connection, User
from load.harness.fleet import Target
from load.harness.measure import Process
from load.harness.scenario import join, message, new_room, new_users, send_path
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.slots import slot_of
from shared.storage.accounts.tokens import hash_token

_V3 = "/_matrix/client/v3"
#: The clients of each writer: enough that none waits for its own answers.
CLIENTS = 6


@dataclass(slots=True)
class Client:
    """A user with a direct connection to the writer that owns their slot or room.

    events: for receipts.
    logins: access tokens of further devices, each for one log-out.
    """

    user_id: UserId
    connection: Connection
    room: RoomId
    events: Sequence[str]
    token: str
    logins: list[str]
    count: int = 0

    async def write(self, stream: str) -> tuple[int, bytes]:
        """Write into a stream, and return the status and body of the answer."""
        self.count += 1
        self.connection.use_token(self.logins.pop() if stream == "sessions" else self.token)
        return await self.connection.raw_request(*WRITES[stream](self, self.count))


#: One operation: method, path, body.
Request = tuple[str, str, bytes]


def _event(client: Client, number: int) -> Request:
    return "PUT", send_path(client.room, f"w{number}"), message()


def _receipt(client: Client, number: int) -> Request:
    event = quote(client.events[number % len(client.events)], safe="")
    return "POST", f"{_room(client)}/receipt/m.read/{event}", b"{}"


def _account_data(client: Client, number: int) -> Request:
    return "PUT", f"{_own(client)}/account_data/x.load", b'{"n":%d}' % number


def _push_rules(client: Client, number: int) -> Request:
    on = b"true" if number % 2 else b"false"
    return "PUT", f"{_V3}/pushrules/global/underride/.m.rule.message/enabled", b'{"enabled":%b}' % on


def _session(client: Client, number: int) -> Request:
    return "POST", f"{_V3}/logout", b"{}"  # of another device each time


def _to_device(client: Client, number: int) -> Request:
    messages = {"messages": {client.user_id: {"LOAD": {"n": number}}}}
    return "PUT", f"{_V3}/sendToDevice/x.load/{number}", orjson.dumps(messages)


def _device_list(client: Client, number: int) -> Request:
    # The signature is false: the server stores a device's keys unchecked, and announces the change.
    keys = {
        "user_id": client.user_id,
        "device_id": "LOAD",
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {"ed25519:LOAD": "e" * 43, "curve25519:LOAD": "c" * 43},
        "signatures": {client.user_id: {"ed25519:LOAD": f"{number}"}},
    }
    return "POST", f"{_V3}/keys/upload", orjson.dumps({"device_keys": keys})


def _one_time_key(client: Client, number: int) -> Request:
    key = {"key": f"{number:043d}", "fallback": True}
    return "POST", f"{_V3}/keys/upload", orjson.dumps({"fallback_keys": {f"signed_curve25519:{number}": key}})


def _typing(client: Client, number: int) -> Request:
    body = b'{"typing":true,"timeout":30000}' if number % 2 == 0 else b'{"typing":false}'
    return "PUT", f"{_room(client)}/typing/{quote(client.user_id, safe='')}", body


def _presence(client: Client, number: int) -> Request:
    body = b'{"presence":"online","status_msg":"%d"}' % number
    return "PUT", f"{_V3}/presence/{quote(client.user_id, safe='')}/status", body


#: Stream -> the request that writes into it.
WRITES: dict[str, Callable[[Client, int], Request]] = {
    "events": _event,
    "receipts": _receipt,
    "account_data": _account_data,
    "push_rules": _push_rules,
    "sessions": _session,
    "to_device": _to_device,
    "device_lists": _device_list,
    "one_time_keys": _one_time_key,
    "typing": _typing,
    "presence": _presence,
}


def _room(client: Client) -> str:
    return f"{_V3}/rooms/{quote(client.room, safe='')}"


def _own(client: Client) -> str:
    return f"{_V3}/user/{quote(client.user_id, safe='')}"


async def clients_of_writers(
    target: Target, database: asyncpg.Connection, processes: Sequence[Process], kind: str, count: int, operations: int
) -> list[list[Client]]:
    """Return the clients of each of the first `count` processes of a type.

    Clients of persisters have a room each. All others share a room.
    operations: the greatest number of operations of one client.
    """
    writers = [each for each in processes if each.type == kind][:count]
    if len(writers) < count:
        raise RuntimeError(f"there are only {len(writers)} of {kind}")
    slots = target.status()["slots"]["rooms" if kind == "event_persister" else "users"]
    owners = {slot: each["owner"] for each in slots for slot in range(each["first"], each["last"] + 1)}
    found: dict[str, list[Client]] = {each.name: [] for each in writers}
    [talker] = await new_users(target, "talker", 1)
    common = await new_room(talker)
    events = [] if kind == "event_persister" else [await _said(talker, common, f"{n}") for n in range(operations)]
    addresses = {each.name: each.address for each in writers}
    while any(len(own) < CLIENTS for own in found.values()):
        for user in await new_users(target, "writer", 8):
            room_id = await new_room(user) if kind == "event_persister" else common
            own = found.get(owners[slot_of(room_id if kind == "event_persister" else user.user_id)])
            if own is not None and len(own) < CLIENTS:
                name = owners[slot_of(room_id if kind == "event_persister" else user.user_id)]
                await join(user, room_id)
                client = await _client(user, addresses[name], room_id, events)
                if kind == "client_api":
                    client.logins = await _logins(database, user.user_id, operations)
                own.append(client)
            user.connection.close()
    talker.connection.close()
    return list(found.values())


async def _said(talker: User, room_id: RoomId, txn_id: str) -> EventId:
    _, answer = await talker.connection.raw_request("PUT", send_path(room_id, txn_id), message())
    event_id: EventId = orjson.loads(answer)["event_id"]
    return event_id


async def _logins(database: asyncpg.Connection, user_id: UserId, count: int) -> list[str]:
    """Insert devices with tokens into the database: log-ins by password would take a minute."""
    tokens = [secrets.token_urlsafe(32) for _ in range(count)]
    devices = [f"OUT{number}" for number in range(count)]
    hashes = [hash_token(token) for token in tokens]
    await database.execute(
        "INSERT INTO devices (user_id, device_id, created_ms) SELECT $1, d, 0 FROM unnest($2::text[]) AS d",
        user_id,
        devices,
    )
    await database.execute(
        "INSERT INTO access_tokens (token_hash, user_id, device_id, created_ms)"
        " SELECT h, $1, d, 0 FROM unnest($2::text[], $3::bytea[]) AS l(d, h)",
        user_id,
        devices,
        hashes,
    )
    return tokens


async def _client(user: User, address: str, room_id: RoomId, events: Sequence[str]) -> Client:
    """Return a client of a user who logged in with a known device id."""
    name = user.user_id[1:].partition(":")[0]
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": name},
        "password": f"load-{name}",
        "device_id": "LOAD",
    }
    answer = await user.request("POST", f"{_V3}/login", login)
    host, _, port = address.rpartition(":")
    token = answer["access_token"]
    return Client(user.user_id, Connection(host, int(port), token), room_id, events, token, [])
