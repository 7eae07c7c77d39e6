"""Network addresses: those of clients as keys of counters, and those to which this server connects for others. Pure.

A name or URL from outside may lead to any address. Without a check, a stranger could have this server talk to what only
this server can reach: its own host, its network, a cloud's metadata service.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

_LONGEST_KEY = 64  # characters of a text that is no address
_IPV6_PREFIX = 64


Network: TypeAlias = IPv4Network | IPv6Network
_Address: TypeAlias = IPv4Address | IPv6Address

#: Networks that are not part of the public Internet. RFC 6890 and its successors, IANA's registries.
NOT_PUBLIC = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/23",
    "2001:db8::/32",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
)
_TRANSLATED = IPv6Network("64:ff9b::/96")


@lru_cache(maxsize=10_000)
def address_key(address: str) -> str:
    """Return the key under which a client's address is counted, everywhere an address is a key.

    An IPv4 address is its own key, also if it is mapped into IPv6. An IPv6 address counts by its network of 64 bits:
    a single subscriber has at least that many addresses, and can use another one for each request.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:_LONGEST_KEY]
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ip_network((int(parsed), _IPV6_PREFIX), strict=False))
    return str(parsed)


class AddressRules:
    """The addresses that may be connected to.

    allowed: networks that may be connected to although they are denied.
    """

    def __init__(self, denied: Iterable[str] = NOT_PUBLIC, allowed: Iterable[str] = ()) -> None:
        """Raises ValueError for a text that is no network."""
        self._denied = tuple(ip_network(each) for each in denied)
        self._allowed = tuple(ip_network(each) for each in allowed)

    def permit(self, address: str) -> bool:
        """Return True if this address may be connected to.

        address: as the operating system writes it, without brackets. An IPv6 address that contains an IPv4 address is
        as good as that one.
        """
        try:
            given = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        every = (given, *_embedded(given))
        if any(_is_in(each, self._allowed) for each in every):
            return True
        return not any(_is_in(each, self._denied) for each in every)


def _is_in(address: _Address, networks: Iterable[Network]) -> bool:
    return any(address.version == each.version and address in each for each in networks)


def _embedded(address: _Address) -> Iterator[IPv4Address]:
    """Yield the IPv4 addresses to which packets for an IPv6 address may go in the end."""
    if isinstance(address, IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address in _TRANSLATED or int(address) >> 32 == 0:
        yield IPv4Address(int(address) & 0xFFFFFFFF)
