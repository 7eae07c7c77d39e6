"""Raw HTTP: bytes out, an answer in, without a library that would correct the request."""

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT_S = 20.0
#: The development fleet's certificate is self-signed.
_UNCHECKED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_UNCHECKED.check_hostname, _UNCHECKED.verify_mode = False, ssl.CERT_NONE


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. headers: names in lower case, in the order of the answer, with duplicates."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def errcode(self) -> Any:
        return self.json().get("errcode")


def request_bytes(
    method: str,
    target: str | bytes,
    *,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes = b"",
) -> bytes:
    """Return a request with `Host`, and with `Content-Length` if there is a body and no header gives its length."""
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    names = {name.lower() for name, _ in pairs}
    if body and not names & {"content-length", "transfer-encoding"}:
        pairs.append(("Content-Length", str(len(body))))
    raw_target = target.encode() if isinstance(target, str) else target
    lines = [method.encode() + b" " + raw_target + b" HTTP/1.1", b"Host: localhost", b"Connection: close"]
    lines += [f"{name}: {value}".encode("latin-1") for name, value in pairs]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def exchange(url: str, request: bytes, *, method: str = "GET") -> Answer:
    """Send the bytes to the host of `url` on a new connection and read one answer."""
    parts = urlsplit(url)
    with socket.create_connection((str(parts.hostname), parts.port or 80), timeout=_TIMEOUT_S) as plain:
        connection: socket.socket = plain
        if parts.scheme == "https":
            connection = _UNCHECKED.wrap_socket(plain, server_hostname="localhost")
        # The server may answer before the whole request is sent, for example when the body is too long.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        body = response.read()
        headers = tuple((name.lower(), value) for name, value in response.getheaders())
        return Answer(response.status, headers, body)


def call(
    url: str,
    method: str,
    target: str | bytes,
    *,
    token: str | None = None,
    body: bytes | object = b"",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request.

    token: sent in the `Authorization` header
    body: sent as JSON unless it is bytes
    """
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = dict(headers or {})
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    return exchange(url, request_bytes(method, target, headers=sent, body=raw), method=method)
