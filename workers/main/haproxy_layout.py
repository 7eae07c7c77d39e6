"""PURE: the names that haproxy's configuration and main share: backends, servers and maps.

haproxy adds servers at run time, but not backends. So a fixed number of empty backends is declared for each kind of
slot, one for each process that will own slots. One backend per pool holds all processes of that pool.
"""

import re
import zlib

from shared.http.endpoint import Pool

#: The backends declared for each kind of slot: the greatest number of owners that haproxy can address. Further
#: processes serve too: requests for their slots go to the pool's backend, whose processes forward.
SLOT_BACKENDS = 64
#: The value of a slot without an owner in a slot map. Every slot has an entry, since `set map` changes existing ones
#: only.
NO_BACKEND = "none"
#: The suffix of a server that gets requests only while the owner of the slots is down.
BACKUP_SUFFIX = ".backup"


def pool_backend(pool: str) -> str:
    """Return the backend that holds every process of a pool."""
    return f"pool_{pool}"


def slot_backend(kind: str, number: int) -> str:
    """Return the backend of one owner of slots. kind: "rooms" or "users". number: from 1."""
    return f"{kind}_{number}"


def slot_map(kind: str) -> str:
    """Return the name of the map from slot to backend: of the file beside the configuration, and at run time."""
    return f"{kind}.map"


def slot_pools(pools: tuple[Pool, ...]) -> dict[str, Pool]:
    """Return the pool of each kind of slot that haproxy routes by. If there are several, the first one counts."""
    return {pool.slot_kind: pool for pool in reversed(pools) if pool.slot_kind and pool.behind_proxies}


def server_name(worker: str) -> str:
    """Return a worker's name in haproxy's alphabet. Different workers have different names.

    Other characters become ":" and their code. So no name can end a command of the runtime socket and begin another
    one, or look like a backup.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", lambda match: f":{ord(match[0]):x}:", worker)
    return f"{name}:" if name.endswith(BACKUP_SUFFIX) else name


def server_arguments(server: str, pool: Pool) -> str:
    """Return the arguments after the address in `add server`. A server added at run time inherits no defaults.

    The id comes from the name, so that consistent hashing has the same result in every haproxy and after a restart.

    A failed connection only makes the next checks follow at once. So a killed server is down in some 0.6 s, and
    retries of its requests go to another one. A failed connection alone decides nothing: a server whose listener is
    full during a burst of requests is busy, not down, and may be the only one.
    """
    identifier = zlib.crc32(server.encode()) & 0x7FFFFFFF or 1
    backup = " backup" if server.endswith(BACKUP_SUFFIX) else ""
    return (
        f"id {identifier}{backup} check inter 500 fastinter 200 downinter 500 fall 3 rise 1"
        f" observe layer4 error-limit 1 on-error fastinter"
        f" maxconn {pool.connections_per_instance} pool-max-conn 200"
    )
