"""Signed requests to other servers, by their names."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson

from shared.core.canonical_json import encode_canonical
from shared.core.errors import RemoteServerError
from shared.core.federation.request_auth import sign_request
from shared.core.federation.server_discovery import Endpoint
from shared.core.identifiers import ServerName
from shared.core.signing.keys import SigningKey
from shared.federation.discovery import ServerDiscovery
from shared.http.outside.client import OpenResponse, OutsideClient, OutsideLimits

#: Of requests whose answer is small.
USUAL_LIMITS = OutsideLimits(connect_s=10.0, first_byte_s=30.0, total_s=60.0, body_bytes=1 << 20)
_LONGEST_ERROR_BYTES = 65_536


class RefusedByServer(RemoteServerError):
    """The other server answered with an error.

    status: the HTTP status.
    errcode, message: of its Matrix error, "" if its answer is none.
    body: its whole error, which some errors need (`room_version`).
    """

    def __init__(self, server: str, status: int, body: Mapping[str, Any]) -> None:
        errcode, message = body.get("errcode"), body.get("error")
        self.status = status
        self.errcode = errcode if isinstance(errcode, str) else ""
        self.message = message if isinstance(message, str) else ""
        self.body = body
        super().__init__(f"{server} answered {status} {self.errcode} {self.message}"[:400])


class ServerRequests:
    """key: the signing key in use."""

    def __init__(
        self, server_name: ServerName, key: SigningKey, client: OutsideClient, discovery: ServerDiscovery
    ) -> None:
        self._server_name = server_name
        self._key = key
        self._client = client
        self._discovery = discovery

    async def ask(
        self,
        server: ServerName,
        method: str,
        uri: str,
        content: Mapping[str, Any] | None = None,
        *,
        signed: bool = True,
        limits: OutsideLimits = USUAL_LIMITS,
    ) -> Any:
        """Send a request and return the JSON of its answer.

        uri: path and query, percent-encoded.
        signed: False for the endpoints of keys, which everybody may ask.
        Raises RefusedByServer for an answer other than 200, and RemoteServerError.
        """
        async with self.open(server, method, uri, content, signed=signed, limits=limits) as answer:
            body = b"".join([chunk async for chunk in answer.chunks()])
        try:
            return orjson.loads(body)
        except ValueError:
            raise RemoteServerError(f"{server} answered with something else than JSON") from None

    @asynccontextmanager
    async def open(
        self,
        server: ServerName,
        method: str,
        uri: str,
        content: Mapping[str, Any] | None = None,
        *,
        signed: bool = True,
        limits: OutsideLimits = USUAL_LIMITS,
    ) -> AsyncIterator[OpenResponse]:
        """Send a request, and yield an answer of status 200 before its body is read. Arguments as for `ask`."""
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(limits.total_s):
                endpoints = await self._discovery.endpoints(server)
        except TimeoutError:
            raise RemoteServerError(f"{server} was not found in time") from None
        headers = {"Content-Type": "application/json"} if content is not None else {}
        body = None if content is None else encode_canonical(dict(content))
        if signed:
            headers["Authorization"] = sign_request(
                self._key, origin=self._server_name, destination=server, method=method, uri=uri, content=content
            )
        fault = RemoteServerError(f"{server} was not found")
        for endpoint in endpoints:
            left_s = limits.total_s - (asyncio.get_running_loop().time() - began)
            if left_s <= 0:
                break
            opened = False
            try:
                async with self._client.open(
                    method,
                    url_of(endpoint, uri),
                    headers={**headers, "Host": endpoint.host_header},
                    body=body,
                    certificate_name=endpoint.certificate_name,
                    limits=replace(limits, total_s=left_s),
                ) as answer:
                    opened = True
                    if answer.status != 200:
                        raise RefusedByServer(server, answer.status, await _error_of(answer))
                    yield answer
                    return
            except RemoteServerError as error:
                if opened:
                    raise
                # Nothing was sent, or nothing came back: the next address may work.
                fault = RemoteServerError(f"{server} at {endpoint.host} port {endpoint.port}: {error}")
        raise fault


def url_of(endpoint: Endpoint, uri: str) -> str:
    """Return the URL of a path and query at an address."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"https://{host}:{endpoint.port}{uri}"


async def _error_of(answer: OpenResponse) -> Mapping[str, Any]:
    """Return the JSON of an error answer, empty if it is none."""
    body = b""
    try:
        async for chunk in answer.chunks():
            body += chunk
            if len(body) > _LONGEST_ERROR_BYTES:
                return {}
        found = orjson.loads(body)
    except (RemoteServerError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
