"""Rules between several settings, which the type of one setting cannot express."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from shared.config.problems import Problem
from shared.config.sections import (
    Contact,
    Database,
    FederationListener,
    Haproxy,
    Listeners,
    Redis,
    Replication,
    Signing,
    Workers,
)

_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


@dataclass(frozen=True, slots=True)
class Relation:
    """One rule.

    keys: the settings of the section that it reads. It is checked only where each of them is right by itself.
    check(section): the broken rule as a problem whose key is relative to the section; None if the rule holds.
    """

    keys: tuple[str, ...]
    check: Callable[[Any], Problem | None]


def changed(section: Any, keys: tuple[str, ...]) -> list[str]:
    """Return those keys of a section whose values differ from their defaults."""
    defaults = {each.name: each.default for each in fields(section)}
    return [key for key in keys if getattr(section, key) != defaults[key]]


_REPLACED_BY_DSN = ("hosts", "port", "user", "password", "name", "tls", "ca_file")
_REPLACED_BY_URL = ("host", "port", "username", "password", "tls", "sentinel")


def _dsn_alone(database: Database) -> Problem | None:
    also = changed(database, _REPLACED_BY_DSN) if database.dsn is not None else []
    return Problem("dsn", "a URL that holds all of the connection", f"also {', '.join(also)}") if also else None


def _one_socket_directory(database: Database) -> Problem | None:
    if any(host.startswith("/") for host in database.hosts) and len(database.hosts) > 1:
        return Problem("hosts", "host names, or one socket directory alone", f"{len(database.hosts)} entries")
    return None


def _url_alone(redis: Redis) -> Problem | None:
    if redis.url is None:
        return None
    parts = urlsplit(redis.url.reveal())
    # A user name and a password may stand beside a URL that holds none: secrets have files of their own.
    allowed = {name for name, value in (("username", parts.username), ("password", parts.password)) if not value}
    also = [key for key in changed(redis, _REPLACED_BY_URL) if key not in allowed]
    return Problem("url", "a URL that holds all of the connection", f"also {', '.join(also)}") if also else None


def _ca_needs_tls(redis: Redis) -> Problem | None:
    speaks_tls = redis.tls or (redis.url is not None and redis.url.reveal().startswith("rediss:"))
    if redis.ca_file is not None and not speaks_tls:
        return Problem("ca_file", "null, since Redis is reached without TLS", f"{redis.ca_file}")
    return None


def _key_needs_certificate(listener: FederationListener) -> Problem | None:
    if listener.private_key_file is not None and listener.certificate_file is None:
        return Problem("certificate_file", "a file that can be read", "nothing, beside a private_key_file")
    return None


def _two_addresses(listeners: Listeners) -> Problem | None:
    client, federation = listeners.client, listeners.federation
    overlap = client.host == federation.host or client.host in _WILDCARDS or federation.host in _WILDCARDS
    if client.port == federation.port and overlap:
        return Problem("federation.port", "another port than that of listeners.client", str(client.port))
    return None


def _reachable_workers(workers: Workers) -> Problem | None:
    if workers.listen_host in _WILDCARDS and workers.advertise_host is None:
        expected = f"the address of this host for others, since listen_host is {workers.listen_host}"
        return Problem("advertise_host", expected, "nothing")
    return None


def _dead_after_two_heartbeats(replication: Replication) -> Problem | None:
    if replication.dead_after_s < 2 * replication.heartbeat_s:
        found = f"{replication.dead_after_s:g}"
        return Problem("dead_after_s", "at least twice heartbeat_s, in seconds", found)
    return None


def _stuck_after_dead(replication: Replication) -> Problem | None:
    if replication.stuck_after_s < replication.dead_after_s:
        return Problem("stuck_after_s", "at least dead_after_s, in seconds", f"{replication.stuck_after_s:g}")
    return None


def _whose_proxy_protocol(haproxy: Haproxy) -> Problem | None:
    if haproxy.proxy_protocol and not haproxy.trusted_proxies:
        return Problem("trusted_proxies", "the proxies that speak the PROXY protocol", "nothing")
    return None


def _reachable_contact(contact: Contact) -> Problem | None:
    if contact.matrix_id is None and contact.email_address is None:
        return Problem("", "a matrix_id or an email_address", "neither")
    return None


def _each_key_once(signing: Signing) -> Problem | None:
    present = [":".join(line.split()[:2]) for line in signing.key.reveal().splitlines() if line.strip()]
    every = [*present, *(old.key_id for old in signing.old_keys)]
    twice = sorted({key_id for key_id in every if every.count(key_id) > 1})
    return Problem("old_keys", "each key id once, also among the present keys", ", ".join(twice)) if twice else None


RELATIONS: Mapping[type, tuple[Relation, ...]] = {
    Database: (
        Relation(("dsn", *_REPLACED_BY_DSN), _dsn_alone),
        Relation(("hosts",), _one_socket_directory),
    ),
    Redis: (
        Relation(("url", *_REPLACED_BY_URL), _url_alone),
        Relation(("url", "tls", "ca_file"), _ca_needs_tls),
    ),
    FederationListener: (Relation(("certificate_file", "private_key_file"), _key_needs_certificate),),
    Listeners: (Relation(("client", "federation"), _two_addresses),),
    Workers: (Relation(("listen_host", "advertise_host"), _reachable_workers),),
    Replication: (
        Relation(("heartbeat_s", "dead_after_s"), _dead_after_two_heartbeats),
        Relation(("dead_after_s", "stuck_after_s"), _stuck_after_dead),
    ),
    Haproxy: (Relation(("trusted_proxies", "proxy_protocol"), _whose_proxy_protocol),),
    Contact: (Relation(("matrix_id", "email_address"), _reachable_contact),),
    Signing: (Relation(("key", "old_keys"), _each_key_once),),
}
