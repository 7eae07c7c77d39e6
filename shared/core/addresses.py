"""Client addresses as keys of counters. Pure."""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

_LONGEST_KEY = 64  # characters of a text that is no address
_IPV6_PREFIX = 64


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
