"""Requests of which processes died: they are set aside, so that they do not end one process after another.

A request that was at work when two processes ended, or lost their leases, is refused for an hour. So are further
requests of its sender to the same endpoint once three processes have ended at such requests.
"""

import hashlib
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter

from shared.core.addresses import address_key
from shared.core.errors import limit_exceeded
from shared.http.request import Request
from shared.storage.fleet.blocking_work import BlockingWork, Deaths

_DEATHS_OF_REQUEST = 2
_DEATHS_OF_USER = 3
_KEPT_S = 3600.0


class SetAside:
    """The requests set aside. deaths: returns the deaths that this process knows of."""

    def __init__(self, deaths: Callable[[], Deaths], registry: CollectorRegistry) -> None:
        self._deaths = deaths
        self._refused = Counter(
            "skep_requests_set_aside_total",
            "Requests refused because processes died of them",
            ("endpoint",),
            registry=registry,
        )

    def check(self, request: Request) -> None:
        """Raise M_LIMIT_EXCEEDED if the request is set aside. This costs nearly nothing while no process died."""
        deaths = self._deaths()
        if not deaths.by_user:
            return
        by_user = deaths.by_user.get((request.endpoint.name, sender_of(request)), 0)
        if not by_user:
            return
        if by_user >= _DEATHS_OF_USER or deaths.by_request.get(fingerprint_of(request), 0) >= _DEATHS_OF_REQUEST:
            self._refused.labels(request.endpoint.name).inc()
            message = "This request ended the server process that worked on it, twice. It is set aside"
            raise limit_exceeded(_KEPT_S, message)


def work_of(request: Request) -> BlockingWork:
    """Return what is noted of a request."""
    return BlockingWork(request.endpoint.name, sender_of(request), fingerprint_of(request))


def sender_of(request: Request) -> str:
    requester = request.requester
    return f"address:{address_key(request.client_address)}" if requester is None else requester.user_id


def fingerprint_of(request: Request) -> bytes:
    """Return a digest that repetitions of the request share."""
    digest = hashlib.sha256(request.method.encode())
    for part in (request.path, request.raw_query, request.body):
        digest.update(b"\x00")
        digest.update(part)
    return digest.digest()[:16]
