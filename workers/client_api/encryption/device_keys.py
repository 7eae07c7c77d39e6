"""End-to-end keys of devices: upload, query, claim, changes. Spec: client-server API, "Key Distribution".

Reads go to the primary database, never to memory, so that they cover everything that any process has answered
(protocol notes, A6). Keys of remote users need federation: until then, their servers are listed under `failures`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import orjson

from replication.streams import DEVICE_LISTS, EVENTS, ONE_TIME_KEYS, TOKEN_LETTERS
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter
from shared.core.errors import MatrixError, Unavailable, invalid_param
from shared.core.identifiers import UserId, check_user_id, server_of
from shared.core.rows import DeviceListRow, OneTimeKeyRow
from shared.core.sync_tokens.stream_token import StreamToken, parse_token
from shared.http.endpoint import RateLimit, RoutingKey, Share
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.operations.quotas import UserQuotas
from shared.runtime.clock import Clock
from shared.runtime.keyed_locks import KeyedLocks
from shared.storage.encryption import device_keys as storage
from shared.storage.encryption.device_lists import get_device_list_news
from shared.storage.engine.pool import Database, transient_as_unavailable
from shared.storage.streams.ends import get_stream_ends
from workers.client_api.encryption.key_upload import (
    KeyUploadBody,
    check_identity_keys,
    have_other_keys,
    parse_keys,
)

#: Unclaimed keys of a device, all algorithms together: ten times as many as a client keeps by itself.
MAX_ONE_TIME_KEYS = 1000
#: With those that were claimed: their ids are kept for a while, so that no other key takes them.
_MAX_STORED_KEYS = 20_000
_MAX_FALLBACK_KEYS = 20  # one of each algorithm, of which the specification has two
_MAX_USERS = 10_000  # in one query or claim
_ATTEMPTS = 5  # with the lock held, only another process can be in the way


class KeyQueryBody(msgspec.Struct):
    device_keys: dict[UserId, list[str]]
    timeout: int = 10_000


class KeyClaimBody(msgspec.Struct):
    one_time_keys: dict[UserId, dict[str, str]]
    timeout: int = 10_000


class DeviceKeys:
    def __init__(
        self,
        server_name: str,
        database: Database,
        writer: FencedWriter,
        announcer: Announcer,
        clock: Clock,
        quotas: UserQuotas,
    ) -> None:
        self._quotas = quotas
        self._server_name = server_name
        self._database = database
        self._writer = writer
        self._announcer = announcer
        self._clock = clock
        self._locks = KeyedLocks()

    @endpoint(
        name="upload_keys",
        method="POST",
        path="/_matrix/client/{version}/keys/upload",
        pool="client",
        routing_key=RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#post_matrixclientv3keysupload",
    )
    async def upload_keys(self, request: Request) -> Response:
        """POST /keys/upload. An upload is stored whole or not at all.

        New identity keys replace the stored ones, as of a bot that lost its store and uses the same device id. The
        keys that belong to the old ones are dropped. Raises M_INVALID_PARAM for keys of another device, a key id that
        was uploaded before with another key, and too many keys.
        """
        user, body = request.user, request.decode(KeyUploadBody)
        if user.device_id is None:
            raise invalid_param("This access token has no device, so it cannot upload keys")
        one_time, fallback = parse_keys(body.one_time_keys or {}), parse_keys(body.fallback_keys or {})
        if len({key.algorithm for key in fallback}) < len(fallback):
            raise invalid_param("fallback_keys may have one key of each algorithm")
        async with self._locks.hold(user.user_id):
            return await self._upload(user.user_id, user.device_id, body, one_time, fallback)

    async def _upload(
        self,
        user_id: UserId,
        device_id: str,
        body: KeyUploadBody,
        one_time: Sequence[storage.KeyToUpload],
        fallback: Sequence[storage.KeyToUpload],
    ) -> Response:
        for _ in range(_ATTEMPTS):
            # The keys may change between the read and the statement. The statement then does nothing: try again.
            known = await storage.get_identity_keys(self._database, user_id, device_id)
            identity = check_identity_keys(body.device_keys, known, user_id, device_id)
            if identity is not None and known is not None and have_other_keys(identity, known):
                await self._replace_identity(user_id, device_id, identity, known)
                continue
            with transient_as_unavailable():
                upload = storage.UploadKeys(
                    user_id=user_id,
                    device_id=device_id,
                    identity=identity,
                    known_identity=known,
                    now_ms=self._clock.now_ms(),
                    one_time=one_time,
                    fallback=fallback,
                    max_one_time=MAX_ONE_TIME_KEYS,
                    max_one_time_bytes=self._quotas.limits.device_keys_bytes,
                    max_stored=_MAX_STORED_KEYS,
                    max_algorithms=_MAX_FALLBACK_KEYS,
                )
                row = await self._writer.write(
                    storage.UPLOAD_KEYS, upload, streams=(DEVICE_LISTS.name, ONE_TIME_KEYS.name)
                )
            if row["devices"] == 0:
                raise MatrixError("M_UNKNOWN_TOKEN", "The device has been deleted", 401)
            if row["clash"] is not None:
                raise invalid_param("A key id was uploaded before with another key")
            if row["crowded"]:
                raise invalid_param(f"A device may have at most {MAX_ONE_TIME_KEYS} unclaimed one-time keys")
            if row["heavy"]:
                most = self._quotas.limits.device_keys_bytes
                raise self._quotas.exceeded(
                    "device_keys_bytes",
                    f"The one-time keys of a device may take at most {most} bytes, and it may not use them up so fast. "
                    "Upload fewer or shorter ones",
                )
            if row["varied"]:
                raise invalid_param(f"A device may have fallback keys of at most {_MAX_FALLBACK_KEYS} algorithms")
            if row["same"] and (identity is None or row["list_position"] is not None):
                self._announce(user_id, device_id, row["list_position"], row["key_position"])
                counts = await storage.get_key_counts(self._database, user_id, device_id)
                return json_response({"one_time_key_counts": counts.one_time})
        raise Unavailable("Other processes keep changing the keys of this device")

    async def _replace_identity(self, user_id: UserId, device_id: str, identity: bytes, known: bytes) -> None:
        """Store new identity keys, and drop the one-time and fallback keys of the old ones."""
        with transient_as_unavailable():
            record = storage.ReplaceIdentityKeys(
                user_id=user_id,
                device_id=device_id,
                identity=identity,
                known_identity=known,
                now_ms=self._clock.now_ms(),
            )
            row = await self._writer.write(
                storage.REPLACE_IDENTITY_KEYS, record, streams=(DEVICE_LISTS.name, ONE_TIME_KEYS.name)
            )
        self._announce(user_id, device_id, row["list_position"], row["key_position"])

    def _announce(self, user_id: UserId, device_id: str, list_position: int | None, key_position: int | None) -> None:
        lease = self._writer.lease
        if list_position is not None:
            self._announcer.announce(
                DEVICE_LISTS, [DeviceListRow(position=list_position, writer=lease, user_id=user_id)]
            )
        if key_position is not None:
            self._announcer.announce(
                ONE_TIME_KEYS,
                [OneTimeKeyRow(position=key_position, writer=lease, user_id=user_id, device_id=device_id)],
            )

    @endpoint(
        name="query_keys",
        method="POST",
        path="/_matrix/client/{version}/keys/query",
        pool="client",
        rate_limit=RateLimit.READ,
        share=Share.KEYS,
        spec="client-server-api/#post_matrixclientv3keysquery",
    )
    async def query_keys(self, request: Request) -> Response:
        """POST /keys/query. Raises M_INVALID_PARAM."""
        wanted = request.decode(KeyQueryBody).device_keys
        local, failures = self._split(wanted)
        found: dict[str, dict[str, Any]] = {}
        for user_id in await storage.get_existing_users(self._database, local):
            found[user_id] = {}
        for stored in await storage.get_device_keys(self._database, local):
            if not wanted[stored.user_id] or stored.device_id in wanted[stored.user_id]:
                found.setdefault(stored.user_id, {})[stored.device_id] = _to_json(stored)
        return json_response({"device_keys": found, "failures": failures})

    @endpoint(
        name="claim_keys",
        method="POST",
        path="/_matrix/client/{version}/keys/claim",
        pool="client",
        # A claim takes a key away from its owner, so nobody may make many.
        rate_limit=RateLimit.ACCOUNT,
        share=Share.KEYS,
        spec="client-server-api/#post_matrixclientv3keysclaim",
    )
    async def claim_keys(self, request: Request) -> Response:
        """POST /keys/claim. One statement takes all keys and marks them as claimed. Raises M_INVALID_PARAM."""
        wanted = request.decode(KeyClaimBody).one_time_keys
        local, failures = self._split(wanted)
        # Sorted, so that two claims of the same devices cannot deadlock.
        keys = sorted(
            storage.KeyToClaim(user_id, device_id, algorithm)
            for user_id in local
            for device_id, algorithm in wanted[user_id].items()
        )
        claimed: dict[str, dict[str, dict[str, Any]]] = {}
        if keys:
            with transient_as_unavailable():
                row = await self._writer.write(
                    storage.CLAIM_KEYS,
                    storage.ClaimKeys(keys=keys, now_ms=self._clock.now_ms()),
                    streams=(ONE_TIME_KEYS.name,),
                )
            columns = (row[name] or () for name in ("users", "devices", "algorithms", "key_ids", "jsons"))
            for user_id, device_id, algorithm, key_id, json in zip(*columns, strict=True):
                name = f"{algorithm}:{key_id}"
                claimed.setdefault(user_id, {})[device_id] = {name: orjson.Fragment(json)}
            changes = (row[name] or () for name in ("positions", "changed_users", "changed_devices"))
            lease = self._writer.lease
            self._announcer.announce(
                ONE_TIME_KEYS,
                [
                    OneTimeKeyRow(position=at, writer=lease, user_id=user, device_id=device)
                    for at, user, device in zip(*changes, strict=True)
                ],
            )
        return json_response({"one_time_keys": claimed, "failures": failures})

    @endpoint(
        name="get_key_changes",
        method="GET",
        path="/_matrix/client/{version}/keys/changes",
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3keyschanges",
    )
    async def get_key_changes(self, request: Request) -> Response:
        """GET /keys/changes. The answer comes from Postgres, which is ahead of every token, so `to` is only checked.

        Raises M_MISSING_PARAM, and M_INVALID_PARAM for an invalid token or one from the future.
        """
        since = await self._parse(request.query_required("from"))
        await self._parse(request.query_required("to"))
        news = await get_device_list_news(
            self._database, request.user.user_id, since.vector(EVENTS.name), since.vector(DEVICE_LISTS.name)
        )
        return json_response({"changed": sorted(news.changed), "left": sorted(news.left)})

    async def _parse(self, text: str) -> StreamToken:
        token = parse_token(text, TOKEN_LETTERS)
        streams = (EVENTS.name, DEVICE_LISTS.name)
        ends = await get_stream_ends(self._database, streams)
        for stream in streams:
            vector = token.vector(stream)
            if vector.known > ends.lease or vector.greatest > ends.positions[stream]:
                raise invalid_param("The token is from the future")
        return token

    def _split(self, user_ids: Iterable[UserId]) -> tuple[list[UserId], dict[str, Any]]:
        """Return the local users, and the servers of the others as `failures`. Raises M_INVALID_PARAM."""
        local: list[UserId] = []
        failures: dict[str, Any] = {}
        for number, user_id in enumerate(user_ids, start=1):
            if number > _MAX_USERS:
                raise invalid_param(f"A request may name at most {_MAX_USERS} users")
            server = server_of(check_user_id(user_id))
            if server == self._server_name:
                local.append(user_id)
            else:
                failures[server] = {"status": 503, "message": "This server cannot be reached"}
        return local, failures


def _to_json(stored: storage.StoredDeviceKeys) -> dict[str, Any]:
    keys: dict[str, Any] = orjson.loads(stored.json)
    keys["unsigned"] = {"device_display_name": stored.display_name} if stored.display_name is not None else {}
    return keys
