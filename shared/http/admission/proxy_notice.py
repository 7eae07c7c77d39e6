"""Notice requests that come through a proxy which haproxy does not trust.

All clients of such a proxy have one address here: they share every limit by address. Only an operator can tell whether
the proxy is theirs.
"""

import logging
import time

from shared.core.addresses import address_key

logger = logging.getLogger(__name__)

#: haproxy puts this on a request whose client, an address that it does not trust, names another client.
UNKNOWN_PROXY = b"x-skep-unknown-proxy"
#: Any client can send such a header, so the log is told of few.
_EVERY_S = 3600.0
_MAX_ADDRESSES = 20


class ProxyNotice:
    """The log of unknown proxies: each address once an hour, and few addresses."""

    def __init__(self) -> None:
        self._noted_s: dict[str, float] = {}

    def note(self, address: str) -> None:
        """Log that a request came from a proxy at this address."""
        key, now_s = address_key(address), time.monotonic()
        noted_s = self._noted_s.get(key)
        if noted_s is not None and now_s - noted_s < _EVERY_S:
            return
        if noted_s is None and len(self._noted_s) >= _MAX_ADDRESSES:
            if now_s - min(self._noted_s.values()) < _EVERY_S:
                return
            self._noted_s.clear()
        self._noted_s[key] = now_s
        logger.warning(
            "Requests from %s name another client in X-Forwarded-For, which is ignored. If your proxy has this address,"
            " add it to haproxy.trusted_proxies: until then all its users share one address, and so one limit of"
            " log-ins and requests. If not, a client sends the header itself",
            key,
        )
