"""Host names, addresses and ports in texts."""

import ipaddress
import re
from urllib.parse import urlsplit

#: RFC 1123 host names, and `_` since container platforms use it.
_NAME = re.compile(
    r"[0-9A-Za-z_]([0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?(\.[0-9A-Za-z_]([0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?)*\.?"
)


def is_host(text: str) -> bool:
    """Tell whether a text is an IP address (IPv6 without brackets) or has the form of a host name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        # A last label of digits only is a mistyped IPv4 address, such as 10.0.0.300.
        return len(text) <= 253 and _NAME.fullmatch(text) is not None and not re.search(r"(^|\.)\d+\.?$", text)
    return True


def host_and_port(text: str, default_port: int) -> tuple[str, int]:
    """Split "host", "host:port" or "[::1]:port". Raises ValueError if the host or the port is malformed."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname or not is_host(parts.hostname) or parts.username is not None or parts.path:
        raise ValueError(f"{text!r} names no host")
    return parts.hostname, parts.port or default_port


def with_port(host: str, port: int) -> str:
    """Return "host:port", with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
