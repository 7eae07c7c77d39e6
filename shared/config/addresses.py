"""Where PostgreSQL and Redis are, in the forms that drivers take, with and without passwords."""

import dataclasses
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from shared.config.kinds import Secret
from shared.config.sections import Database, Redis


def database_dsn(database: Database) -> str:
    """Return the connection URL, password included: for asyncpg and libpq, never for a log.

    Several hosts stand in it one after another; the caller asks for the primary.
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
        hosts = ",".join(_with_port(host, database.port) for host in database.hosts)
        query["sslmode"] = database.tls
        if database.ca_file is not None:
            query["sslrootcert"] = str(database.ca_file)
    path = "/" + quote(database.name, safe="")
    return urlunsplit(("postgresql", f"{userinfo}@{hosts}", path, urlencode(query, quote_via=quote), ""))


def database_dsn_without_password(database: Database) -> str:
    """Return the connection URL for people and for `skep status`: as above, less any password."""
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

    Raises ValueError when the URL has another scheme, no host or a wrong port. A database number in it means
    nothing: publish and subscribe know none.
    """
    if redis.url is None:
        return redis
    parts = urlsplit(redis.url.reveal())
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError("the URL must look like redis://host:6379 or rediss://host:6379")
    return dataclasses.replace(
        redis,
        url=None,
        host=parts.hostname,
        port=parts.port or redis.port,
        username=unquote(parts.username) if parts.username else redis.username,
        password=Secret(unquote(parts.password)) if parts.password else redis.password,
        tls=parts.scheme == "rediss",
    )


def host_and_port(text: str, default_port: int) -> tuple[str, int]:
    """Split "host", "host:port", "[::1]:port". Raises ValueError for no host or a port that is none."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} names no host")
    return parts.hostname, parts.port or default_port


def _with_port(text: str, default_port: int) -> str:
    host, port = host_and_port(text, default_port)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
