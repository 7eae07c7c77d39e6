"""PURE: the commands that bring haproxy from its present state to the wanted one.

Nothing is remembered between two plans. The backend of a process is read from haproxy itself, so a new leader, a
restarted haproxy and a half-finished plan all lead to the same state. The order makes every step safe: a process is in
its backend before a map names it, and out of every map before it leaves its backend.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace

from shared.core.slots import SLOTS
from shared.http.endpoint import Pool
from workers.main.haproxy_layout import (
    BACKUP_SUFFIX,
    NO_BACKEND,
    SLOT_BACKENDS,
    pool_backend,
    server_arguments,
    server_name,
    slot_backend,
    slot_map,
    slot_pools,
)

#: haproxy ends a server's requests a moment after this command, and only then repeats those that it may.
END_REQUESTS = "shutdown sessions server"
#: The bits of `srv_admin_state` that keep requests away: maintenance and drain, from any source.
_HELD_BACK = 0x01 | 0x04 | 0x08


@dataclass(frozen=True, slots=True)
class FleetWorker:
    """A process that serves HTTP.

    address: "ip:port" or "[ip6]:port". haproxy resolves no names at run time.
    ready: False while it drains. It then leaves its pools at once, and keeps its slots' backend while it owns slots.
    """

    name: str
    type: str
    address: str
    ready: bool = True


@dataclass(frozen=True, slots=True)
class FleetRouting:
    """The wanted state of haproxy.

    owners: kind of slots -> slot -> name of the owner.
    leased: the names of further processes that hold a lease, and may finish requests, but serve no new ones.
    """

    workers: tuple[FleetWorker, ...]
    owners: Mapping[str, Mapping[int, str]]
    leased: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ProxyServer:
    """A server in haproxy. admin_state: haproxy's mask. checked: True if its health check is enabled."""

    backend: str
    name: str
    address: str
    admin_state: int = 0
    checked: bool = True


@dataclass(frozen=True, slots=True)
class ProxyState:
    """The present state of one haproxy.

    maps: map name -> its (key, value) entries in haproxy's order. A key can occur twice.
    """

    servers: tuple[ProxyServer, ...] = ()
    maps: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)


def plan_commands(
    wanted: FleetRouting, actual: ProxyState, pools: tuple[Pool, ...], slot_backends: int = SLOT_BACKENDS
) -> list[str]:
    """Return the runtime commands that lead from `actual` to `wanted`, in order.

    haproxy may refuse to delete a server that has connections. The server is in maintenance by then and gets no new
    requests, and the next plan tries again.
    """
    wanted = _with_server_names(wanted)
    servers: dict[tuple[str, str], tuple[FleetWorker, Pool]] = {}
    backends: dict[str, dict[str, str]] = {}
    for kind, pool in slot_pools(pools).items():
        numbers = backend_numbers(kind, wanted, actual, pool, slot_backends)
        backends[kind] = {name: slot_backend(kind, number) for name, number in numbers.items()}
        servers.update(_slot_servers(numbers, kind, wanted, pool))
    for pool in (each for each in pools if each.behind_proxies):
        for worker in wanted.workers:
            if worker.type == pool.worker and worker.ready:
                servers[pool_backend(pool.name), worker.name] = (worker, pool)
    known = {(server.backend, server.name): server for server in actual.servers}
    commands: list[str] = []
    for (backend, name), (worker, pool) in sorted(servers.items()):
        commands += _add(backend, name, worker, pool, known.get((backend, name)))
    for kind, by_worker in backends.items():
        commands += _correct_map(slot_map(kind), wanted.owners.get(kind, {}), by_worker, actual)
    leased = {worker.name for worker in wanted.workers} | wanted.leased
    commands += _remove([server for key, server in sorted(known.items()) if key not in servers], leased)
    return commands


def backend_numbers(
    kind: str, wanted: FleetRouting, actual: ProxyState, pool: Pool, slot_backends: int = SLOT_BACKENDS
) -> dict[str, int]:
    """Return worker name -> the number of its backend of this kind.

    A worker keeps its number, the one that haproxy has now, as long as it is wanted. A new worker gets the least number
    of an empty backend, or none if all are taken.
    """
    owning = set(wanted.owners.get(kind, {}).values())
    names = sorted(w.name for w in wanted.workers if w.type == pool.worker and (w.ready or w.name in owning))
    present: dict[str, list[str]] = defaultdict(list)
    for server in actual.servers:
        present[server.backend].append(server.name)
    numbers: dict[str, int] = {}
    for number in range(1, slot_backends + 1):
        for name in sorted(present.get(slot_backend(kind, number), [])):
            if name in names and name not in numbers and number not in numbers.values():
                numbers[name] = number
    free = [n for n in range(1, slot_backends + 1) if n not in numbers.values()]
    free.sort(key=lambda n: (bool(present.get(slot_backend(kind, n))), n))  # empty ones first
    numbers.update(zip((name for name in names if name not in numbers), free, strict=False))
    return numbers


def _with_server_names(wanted: FleetRouting) -> FleetRouting:
    return FleetRouting(
        tuple(replace(worker, name=server_name(worker.name)) for worker in wanted.workers),
        {kind: {slot: server_name(name) for slot, name in owners.items()} for kind, owners in wanted.owners.items()},
        frozenset(server_name(name) for name in wanted.leased),
    )


def _slot_servers(
    numbers: Mapping[str, int], kind: str, wanted: FleetRouting, pool: Pool
) -> Iterator[tuple[tuple[str, str], tuple[FleetWorker, Pool]]]:
    """Yield each owner in its backend, and another process as its backup.

    The backup gets the retry of a request whose owner has just died, and forwards it. One backup is enough: without
    both the backend has no server, and requests go to the pool's backend.
    """
    workers = {worker.name: worker for worker in wanted.workers}
    ring = sorted(numbers, key=lambda name: numbers[name])
    for position, name in enumerate(ring):
        backend = slot_backend(kind, numbers[name])
        yield (backend, name), (workers[name], pool)
        others = [*ring[position + 1 :], *ring[:position]]
        backup = next((workers[other] for other in others if workers[other].ready), None)
        if backup is not None:
            yield (backend, backup.name + BACKUP_SUFFIX), (backup, pool)


def _add(backend: str, name: str, worker: FleetWorker, pool: Pool, now: ProxyServer | None) -> Iterator[str]:
    server = f"{backend}/{name}"
    if now is None:
        yield f"add server {server} {worker.address} {server_arguments(name, pool)}"
        yield f"enable health {server}"
        yield f"enable server {server}"
        return
    if now.address != worker.address:  # a process with the same name started at another address
        host, _, port = worker.address.rpartition(":")
        yield f"set server {server} addr {host.strip('[]')} port {port}"
        yield _end_requests(server)  # they wait for the former process
    if not now.checked:
        yield f"enable health {server}"
    if now.admin_state & _HELD_BACK:
        yield f"set server {server} state ready"


def _correct_map(
    name: str, owners: Mapping[int, str], backends: Mapping[str, str], actual: ProxyState
) -> Iterator[str]:
    entries: dict[str, list[str]] = defaultdict(list)
    for key, value in actual.maps.get(name, ()):
        entries[key].append(value)
    for slot in range(SLOTS):
        backend = backends.get(owners.get(slot, ""), NO_BACKEND)
        values = entries.pop(str(slot), [])
        if values == [backend]:
            continue
        if len(values) == 1:
            yield f"set map {name} {slot} {backend}"
            continue
        if values:  # `set map` would change them all, and `map_str` reads the first
            yield f"del map {name} {slot}"
        yield f"add map {name} {slot} {backend}"
    yield from (f"del map {name} {key}" for key in entries)


def _remove(servers: list[ProxyServer], leased: Set[str]) -> Iterator[str]:
    """Yield maintenance for all servers, then their deletion. Most have no connections left by then.

    Requests to a process without a lease end: it may hang, and must not answer them. haproxy repeats those that it may,
    at the backup of the same backend, so this happens before the backup goes too. The lease decides, not a health
    check, so that a busy process loses no long poll.
    """
    void = [s for s in servers if s.name.removesuffix(BACKUP_SUFFIX) not in leased]
    for group in (void, [s for s in servers if s not in void]):
        yield from (f"set server {s.backend}/{s.name} state maint" for s in group if not s.admin_state & 0x01)
        yield from (_end_requests(f"{s.backend}/{s.name}") for s in group if group is void)
    yield from (f"del server {s.backend}/{s.name}" for s in servers)


def _end_requests(server: str) -> str:
    return f"{END_REQUESTS} {server}"
