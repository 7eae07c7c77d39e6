"""The names that haproxy's configuration and main agree on: backends, servers, maps. Pure.

haproxy adds servers at run time, but no backends. So for each kind of slot a fixed number of backends is
declared empty, one for each process that will own slots; and one backend per pool holds all processes of that
pool.
"""

import re
import zlib

from shared.http.endpoint import Pool

#: Backends declared for each kind of slot: the greatest number of processes that haproxy can tell apart
#: there. Further ones still serve: their slots go to the pool's backend, whose processes forward.
SLOT_BACKENDS = 64
#: The value of a slot without owner in a slot map. Every slot has an entry: `set map` only changes existing
#: ones.
NO_BACKEND = "none"
#: Suffix of a server that only steps in while the owner of the slots is down.
BACKUP_SUFFIX = ".backup"


def pool_backend(pool: str) -> str:
    """Return the backend that holds every process of a pool."""
    return f"pool_{pool}"


def slot_backend(kind: str, number: int) -> str:
    """Return a backend for one owner of slots. kind: "rooms" or "users"; number: from 1."""
    return f"{kind}_{number}"


def slot_map(kind: str) -> str:
    """Return the map from slot to backend: its file's name, beside the configuration, and its name at run
    time.
    """
    return f"{kind}.map"


def slot_pools(pools: tuple[Pool, ...]) -> dict[str, Pool]:
    """Return the pool of each kind of slot that haproxy routes by; the first declared, should there be
    several.
    """
    return {pool.slot_kind: pool for pool in reversed(pools) if pool.slot_kind}


def server_name(worker: str) -> str:
    """Return a worker's name as haproxy takes it, different for different workers.

    Other characters become ":" and their code. So no name can end a command of the runtime socket and begin another,
    nor pass for a backup.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", lambda match: f":{ord(match[0]):x}:", worker)
    return f"{name}:" if name.endswith(BACKUP_SUFFIX) else name


def server_arguments(server: str, pool: Pool) -> str:
    """Return what follows the address in `add server`: a server added at run time inherits no defaults.

    The id comes from the name, so that consistent hashing gives the same answer in every haproxy and after a
    restart. A server that refuses one connection is down at once (0.25 s, against 1 s for two failed checks),
    which lets the retry of the same request go elsewhere.
    """
    identifier = zlib.crc32(server.encode()) & 0x7FFFFFFF or 1
    backup = " backup" if server.endswith(BACKUP_SUFFIX) else ""
    return (
        f"id {identifier}{backup} check inter 500 fastinter 200 downinter 500 fall 2 rise 1"
        f" observe layer4 error-limit 1 on-error mark-down"
        f" maxconn {pool.connections_per_instance} pool-max-conn 200"
    )
