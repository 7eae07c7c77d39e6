"""Addresses of PostgreSQL and Redis, in the forms that drivers take, with and without passwords."""

import dataclasses
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from shared.config.hosts import host_and_port, with_port
from shared.config.kinds import Secret
from shared.config.sections import Database, Redis


def database_dsn(database: Database) -> str:
    """Return the connection URL, password included: for asyncpg and libpq, never for a log.

    Several hosts are listed one after another; the caller asks for the primary.
    """
    if database.dsn is not None:
        return database.dsn.reveal()
    userinfo = quote(database.user, safe="")
    if database.password is not None:
        userinfo += ":" + quote(database.password.reveal(), safe="")
    query: dict[str, str] = {}
    if len(database.hosts) == 1 and database.hosts[0].startswith("/"):
        query = {"host": database.hosts[0], "port": str(database.port)}
        hosts = ""
    else:
        hosts = ",".join(with_port(*host_and_port(host, database.port)) for host in database.hosts)
        query["sslmode"] = database.tls
        if database.ca_file is not None:
            query["sslrootcert"] = str(database.ca_file)
    path = "/" + quote(database.name, safe="")
    return urlunsplit(("postgresql", f"{userinfo}@{hosts}", path, urlencode(query, quote_via=quote), ""))


def database_dsn_without_password(database: Database) -> str:
    """Return the connection URL without any password, for people and logs."""
    parts = urlsplit(database_dsn(database))
    userinfo, at, hosts = parts.netloc.rpartition("@")
    query = [(name, value) for name, value in parse_qsl(parts.query) if name != "password"]
    return urlunsplit(
        parts._replace(netloc=userinfo.partition(":")[0] + at + hosts, query=urlencode(query, quote_via=quote))
    )


def database_is_named(database: Database) -> bool:
    """Tell whether the configuration names a PostgreSQL; if not, `skep up` starts one."""
    return database.dsn is not None or bool(database.hosts)


def redis_is_named(redis: Redis) -> bool:
    """Tell whether the configuration names a Redis; if not, `skep up` starts one."""
    return redis.url is not None or redis.host is not None or bool(redis.sentinel.hosts)


def with_url_taken_apart(redis: Redis) -> Redis:
    """Return the section with `url` spread over host, port, username, password and tls.

    A database number in the URL has no effect: publish and subscribe do not know databases.
    """
    if redis.url is None:
        return redis
    parts = urlsplit(redis.url.reveal())
    return dataclasses.replace(
        redis,
        url=None,
        host=parts.hostname,
        port=parts.port or redis.port,
        username=unquote(parts.username) if parts.username else redis.username,
        password=Secret(unquote(parts.password)) if parts.password else redis.password,
        tls=parts.scheme == "rediss",
    )
