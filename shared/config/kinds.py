"""The types of settings: secrets, and the limits that a field's type carries.

A field states its limits in its type (`Annotated[int, Range(1, 65535)]`). The loader's check, the JSON schema and the
documentation all come from there.
"""

import base64
import binascii
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from shared.config.hosts import host_and_port, is_host


class Secret:
    """A text that must not reach a log, a traceback or an error message. Only `reveal` returns it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(hidden)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True)
class Range:
    """The least and greatest value of a number; None means no limit on that side. Infinity is always refused."""

    least: float | None = None
    greatest: float | None = None

    def holds(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        return (self.least is None or value >= self.least) and (self.greatest is None or value <= self.greatest)

    def words(self) -> str:
        if self.least is not None and self.greatest is not None:
            return f"from {self.least:g} to {self.greatest:.12g}"
        return f"of at least {self.least:g}" if self.least is not None else f"of at most {self.greatest:g}"


@dataclass(frozen=True, slots=True)
class Form:
    """The grammar of a text, which the whole text must match. words: the grammar for people, with an example."""

    pattern: str
    words: str

    def holds(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None


@dataclass(frozen=True, slots=True)
class Check:
    """A limit that no pattern can express.

    words: what is expected, for people.
    fault(text): None if the text is right, else what is wrong with it. The answer never quotes the text, which may be
    secret.
    """

    words: str
    fault: Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class ReadableFile:
    """A path that must name a file which this process can read when it loads the configuration."""


def _host_fault(text: str) -> str | None:
    return None if is_host(text) else "something else"


def _host_and_port_fault(text: str) -> str | None:
    try:
        host_and_port(text, 1)
    except ValueError:
        return "something else"
    return None


def _network_fault(text: str) -> str | None:
    try:
        ip_network(text)
    except ValueError:
        return "something else"
    return None


def _database_host_fault(text: str) -> str | None:
    return None if text.startswith("/") else _host_and_port_fault(text)


def _socket_fault(text: str) -> str | None:
    if text.startswith("/"):
        return None
    return _host_and_port_fault(text) if re.search(r":\d+$", text) else "neither an absolute path nor host:port"


def _url_fault(schemes: tuple[str, ...], text: str) -> str | None:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return "a URL with a malformed host or port"
    if parts.scheme not in schemes:
        return "a text that does not begin so"
    return None


def _redis_url_fault(text: str) -> str | None:
    fault = _url_fault(("redis", "rediss"), text)
    return "a URL without a host" if fault is None and not urlsplit(text).hostname else fault


def _dsn_fault(text: str) -> str | None:
    # The host part may list several hosts, which urlsplit takes for one with a malformed port.
    return None if re.match(r"postgres(ql)?://", text) else "a text that does not begin so"


def _signing_key_fault(text: str) -> str | None:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    for number, words in enumerate(lines, 1):
        if len(words) != 3 or words[0] != "ed25519" or not words[1].replace("_", "a").isalnum():
            return f"something else in line {number}"
        try:
            seed = base64.b64decode(words[2] + "=" * (-len(words[2]) % 4), validate=True)
        except (binascii.Error, ValueError):
            seed = b""
        if len(seed) != 32:
            return f"a seed of {len(seed)} bytes in line {number}"
    return None if lines else "an empty text"


def _internal_secret_fault(text: str) -> str | None:
    return None if len(text) >= 16 else "fewer"


Port = Annotated[int, Range(1, 65535)]
PortOrPicked = Annotated[int, Range(0, 65535)]
Seconds = Annotated[float, Range(0)]
Count = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
#: Times of accounts and events, which are added to the present and stored as milliseconds. A hundred years are enough.
LifetimeSeconds = Annotated[int, Range(1, 3_153_600_000)]
Fraction = Annotated[float, Range(0, 1)]
#: Spec: appendices, "Server Name". The host part is judged as loosely as the grammar there does.
ServerName = Annotated[
    str,
    Form(r"(\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z.-]{1,255})(:[0-9]{1,5})?", 'a server name such as "example.org"'),
]
#: Spec: appendices, "User Identifiers", with the historical characters.
UserIdText = Annotated[str, Form(r"@[!-9;-~]*:[!-~]+", 'a user id such as "@admin:example.org"')]
EmailAddress = Annotated[str, Form(r"[^\s@]+@[^\s@]+", 'an e-mail address such as "admin@example.org"')]
HttpUrl = Annotated[str, Form(r"https?://[^\s/?#]+(/[^\s?#]*)?", 'a URL such as "https://matrix.example.org"')]
InputFile = Annotated[Path, ReadableFile()]
Host = Annotated[str, Check("a host name, or an IP address without brackets", _host_fault)]
HostAndPort = Annotated[str, Check("a host name or an IP address, with or without :port", _host_and_port_fault)]
Network = Annotated[str, Check("an IP address or a network such as 10.0.0.0/8, without host bits", _network_fault)]
DatabaseHost = Annotated[
    str, Check("a host name with or without :port, or the directory of a unix socket", _database_host_fault)
]
RuntimeSocket = Annotated[str, Check("the absolute path of a socket, or host:port", _socket_fault)]
#: Part of every channel's name. Patterns of subscriptions give `*?[]` a meaning.
ChannelPrefix = Annotated[str, Form(r"[0-9A-Za-z_.:/-]+", 'a name such as "skep"')]
NonEmpty = Annotated[str, Form(r"[\s\S]+", "a text that is not empty")]

DatabaseUrl = Annotated[Secret, Check("a URL such as postgresql://user:password@host:port/name", _dsn_fault)]
RedisUrl = Annotated[Secret, Check("a URL such as redis://user:password@host:port", _redis_url_fault)]
SigningKeys = Annotated[Secret, Check("lines such as `ed25519 a_1 <32 bytes, unpadded base64>`", _signing_key_fault)]
InternalSecret = Annotated[Secret, Check("16 characters or more", _internal_secret_fault)]
