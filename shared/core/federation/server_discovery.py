"""Finding the address of a server from its name. Spec: server-server API, "Resolving server names".

The steps, in this order:

1. An IP literal is the address. The port is the name's own, else 8448.
2. A name with a port is looked up in the DNS.
3. `https://<name>/.well-known/matrix/server` may name another server, for which the steps 1, 2, 4, 5 and 6 are taken.
4. The SRV records of `_matrix-fed._tcp.<name>`.
5. The SRV records of `_matrix._tcp.<name>` (deprecated).
6. The name itself, with port 8448.

The functions here decide; `shared/federation/discovery.py` asks.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from shared.core.identifiers import ServerName, is_server_name

DEFAULT_PORT = 8448
#: The greatest answer of `/.well-known/matrix/server` that is read.
WELL_KNOWN_MAX_BYTES = 51_200
WELL_KNOWN_PATH = "/.well-known/matrix/server"
#: The services whose SRV records are looked up, in this order.
SRV_SERVICES = ("_matrix-fed._tcp", "_matrix._tcp")

_DAY_S = 86_400.0
_WELL_KNOWN_DEFAULT_S = _DAY_S
_WELL_KNOWN_LONGEST_S = 2 * _DAY_S
#: A shorter lifetime would have us ask with every request.
_WELL_KNOWN_SHORTEST_S = 60.0
_NO_WELL_KNOWN_LONGEST_S = 3_600.0
_NO_WELL_KNOWN_FIRST_S = 60.0
_MAX_AGE = re.compile(r"(?:^|,)\s*max-age\s*=\s*\"?(\d{1,10})\"?\s*(?:,|$)", re.IGNORECASE)
_NO_STORE = re.compile(r"(?:^|,)\s*no-(?:store|cache)\s*(?:,|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPort:
    """The parts of a server name.

    host: a DNS name or an IP address, without brackets.
    port: None if the name has none.
    """

    host: str
    port: int | None
    is_literal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An address at which a server may answer.

    host, port: the TCP connection. host is a DNS name or an IP address.
    host_header: the value of `Host`.
    certificate_name: the name that the certificate must have: a DNS name or an IP address.
    """

    host: str
    port: int
    host_header: str
    certificate_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SrvRecord:
    """One SRV record. target: without the final dot."""

    priority: int
    weight: int
    target: str
    port: int


def split_server_name(name: ServerName) -> HostPort:
    """Return the parts of a server name. Raises ValueError if its port or its address is none."""
    host, port = str(name), None
    if (found := re.fullmatch(r"(.*):([0-9]{1,5})", host, re.DOTALL)) and not host.endswith("]"):
        host, port = found[1], int(found[2])
        if not 0 < port < 65_536:
            raise ValueError(f"{name} has a port that does not exist")
    if host.startswith("["):
        return HostPort(host=str(ipaddress.IPv6Address(host[1:-1])), port=port, is_literal=True)
    try:
        return HostPort(host=str(ipaddress.IPv4Address(host)), port=port, is_literal=True)
    except ValueError:
        if host.rpartition(".")[2].isdecimal():
            raise ValueError(f"{name} looks like an address, but is none") from None
        return HostPort(host=host, port=port, is_literal=False)


def direct_endpoint(name: ServerName) -> Endpoint | None:
    """Return the address that a name gives by itself (steps 1 and 2), None if others must be asked.

    Raises ValueError as `split_server_name` does.
    """
    parts = split_server_name(name)
    if not parts.is_literal and parts.port is None:
        return None
    return Endpoint(host=parts.host, port=parts.port or DEFAULT_PORT, host_header=name, certificate_name=parts.host)


def default_endpoint(name: ServerName) -> Endpoint:
    """Return the address of a name for which there are no records (step 6)."""
    return Endpoint(host=name, port=DEFAULT_PORT, host_header=name, certificate_name=name)


def srv_endpoints(name: ServerName, records: Sequence[SrvRecord], random: Callable[[], float]) -> tuple[Endpoint, ...]:
    """Return the addresses of SRV records in the order in which to try them (steps 4 and 5). RFC 2782.

    random: returns a number from 0 to 1.
    """
    endpoints = []
    # A target "." says that the service is not offered.
    left = sorted((each for each in records if each.target), key=lambda each: (each.priority, each.weight != 0))
    while left:
        same = [each for each in left if each.priority == left[0].priority]
        chosen = random() * sum(each.weight for each in same)
        for record in same:
            chosen -= record.weight
            if chosen <= 0:
                break
        left.remove(record)
        endpoints.append(Endpoint(host=record.target, port=record.port, host_header=name, certificate_name=name))
    return tuple(endpoints)


def parse_well_known(body: bytes) -> ServerName:
    """Return the server that a `/.well-known/matrix/server` names. Raises ValueError, which says what is wrong."""
    try:
        answer: Any = orjson.loads(body)
    except ValueError:
        raise ValueError("it is not JSON") from None
    name = answer.get("m.server") if isinstance(answer, Mapping) else None
    if not isinstance(name, str) or not is_server_name(name):
        raise ValueError('its "m.server" is not a server name')
    split_server_name(ServerName(name))
    return ServerName(name)


def well_known_lifetime_s(headers: Mapping[str, str], age_s: float = 0.0) -> float:
    """Return the seconds for which an answer is valid, by its `Cache-Control`: from a minute to 48 hours.

    headers: by name in lower case.
    age_s: the seconds since the answer was made, from the header `Age`.
    """
    control = headers.get("cache-control", "")
    if _NO_STORE.search(control):
        return _WELL_KNOWN_SHORTEST_S
    found = _MAX_AGE.search(control)
    lifetime_s = float(found[1]) - age_s if found else _WELL_KNOWN_DEFAULT_S
    return min(max(lifetime_s, _WELL_KNOWN_SHORTEST_S), _WELL_KNOWN_LONGEST_S)


def no_well_known_lifetime_s(failures: int) -> float:
    """Return the seconds after which to ask again for a `.well-known` that was not to be had: at most an hour.

    failures: the number of failures in a row, from 1.
    """
    return min(_NO_WELL_KNOWN_FIRST_S * 2.0 ** min(failures - 1, 16), _NO_WELL_KNOWN_LONGEST_S)
