"""The IP addresses that requests to strangers may reach. Pure: no I/O.

Names and redirects are chosen by others, so an address is checked where a connection is made to it. An IPv6 address
that leads to an IPv4 address is checked as both.
"""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

#: Networks without strangers: this host, local and private networks, documentation, benchmarks, multicast, reserved.
#: IANA's registries of special-purpose addresses.
DENIED = tuple(
    ip_network(text)
    for text in (
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
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)
_NAT64 = ip_network("64:ff9b::/96")
_COMPATIBLE = ip_network("::/96")


class AddressRules:
    """allowed: exceptions from `denied`, which refuse all other addresses in them."""

    def __init__(self, *, denied: Sequence[Network] = DENIED, allowed: Sequence[Network] = ()) -> None:
        self._denied = tuple(denied)
        self._allowed = tuple(allowed)

    def allow(self, text: str) -> bool:
        """Return True if a connection to the address may be made. False for what is no address, too."""
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:
            return False
        return all(self._allows(each) for each in _meanings(address))

    def _allows(self, address: Address) -> bool:
        return _in(address, self._allowed) or not _in(address, self._denied)


def _in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _meanings(address: Address) -> Iterator[Address]:
    """Yield the address, or the IPv4 addresses that traffic to it may end at."""
    if isinstance(address, IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped  # the same host: this is only another way to write it
        return
    yield address
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        yield IPv4Address(int(address) & 0xFFFF_FFFF)
