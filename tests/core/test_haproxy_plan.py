"""The plan for haproxy, against a model that carries out its commands: safe at every step, done after one."""

import random
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.slots import SLOTS
from shared.http.endpoint import Pool
from workers.main.haproxy_layout import NO_BACKEND, server_arguments, server_name
from workers.main.haproxy_plan import (
    FleetRouting,
    FleetWorker,
    ProxyServer,
    ProxyState,
    backend_numbers,
    plan_commands,
)

PERSISTERS = Pool(name="room_write", worker="event_persister", slot_kind="rooms", connections_per_instance=7)
POOLS = (PERSISTERS, Pool(name="sync", worker="synchrotron"), Pool(name="room_read", worker="synchrotron"))
BACKENDS = 4


class ModelProxy:
    """haproxy's behaviour for the commands of the plan. A command that haproxy would refuse fails the test.

    busy: servers with connections, for which `del server` is refused.
    """

    def __init__(self) -> None:
        self.servers: dict[str, ProxyServer] = {}
        self.map = {str(slot): NO_BACKEND for slot in range(SLOTS)}
        self.busy: set[str] = set()
        self.ended: list[str] = []
        self.holes_allowed = True

    @property
    def state(self) -> ProxyState:
        return ProxyState(tuple(self.servers.values()), {"rooms.map": tuple(self.map.items())})

    def run(self, commands: list[str]) -> None:
        for command in commands:
            self._run(*command.split(" "))
            if not self.holes_allowed:  # a map never names a backend that can serve nothing
                serving = {s.backend for s in self.servers.values() if not s.admin_state} | {NO_BACKEND}
                named = [command.split(" ")[-1]] if " map " in command else self.map.values()
                assert serving.issuperset(named), command

    def _run(self, verb: str, what: str, name: str, *rest: str) -> None:
        if (verb, what, name) == ("shutdown", "sessions", "server"):
            self.ended.append(rest[0])
        elif (verb, what) == ("add", "server"):
            assert name not in self.servers
            backend, _, server = name.partition("/")
            self.servers[name] = ProxyServer(backend, server, rest[0], admin_state=1, checked=False)
        elif what == "map":
            assert (rest[0] in self.map) == (verb != "add")
            if verb == "del":
                del self.map[rest[0]]
            else:
                self.map[rest[0]] = rest[1]
        elif (verb, what) == ("del", "server"):
            assert self.servers[name].admin_state & 1
            if name not in self.busy:
                del self.servers[name]
        else:
            now = self.servers[name]
            address, state, checked = now.address, now.admin_state, now.checked
            if verb == "enable":
                state, checked = (state, True) if what == "health" else (0, checked)
            elif rest[0] == "addr":
                address = f"{rest[1]}:{rest[3]}"
            else:
                state = {"maint": 1, "ready": 0}[rest[1]]
            self.servers[name] = ProxyServer(now.backend, now.name, address, state, checked)


@st.composite
def fleets(draw: st.DrawFn) -> FleetRouting:
    persisters = draw(st.lists(st.sampled_from(["p1", "p2", "p3", "p4", "p5"]), unique=True, min_size=1))
    draining = draw(st.sets(st.sampled_from(persisters)))
    port = draw(st.sampled_from([1000, 2000]))
    workers = [FleetWorker(n, "event_persister", f"10.0.0.1:{port + int(n[1])}", n not in draining) for n in persisters]
    workers += [FleetWorker(n, "synchrotron", "10.0.0.2:80") for n in draw(st.sets(st.sampled_from(["s1", "s2"])))]
    owners = draw(st.lists(st.sampled_from([*persisters, "gone"]), min_size=3, max_size=3))
    return FleetRouting(tuple(workers), {"rooms": {s: owners[s % 3] for s in range(SLOTS) if s % 5}})


@settings(max_examples=60, deadline=None)
@given(st.lists(fleets(), min_size=1, max_size=4), st.integers())
def test_from_any_fleet_to_any_other_in_one_plan(fleets_in_turn: list[FleetRouting], seed: int) -> None:
    proxy, chance = ModelProxy(), random.Random(seed)
    for fleet in fleets_in_turn:
        before = backend_numbers("rooms", fleet, proxy.state, PERSISTERS, BACKENDS)
        proxy.holes_allowed = False
        proxy.run(plan_commands(fleet, proxy.state, POOLS, BACKENDS))
        assert plan_commands(fleet, proxy.state, POOLS, BACKENDS) == []
        after = backend_numbers("rooms", fleet, proxy.state, PERSISTERS, BACKENDS)
        assert after == before  # nothing remembered, and yet the same
        by_name = {worker.name: worker for worker in fleet.workers}
        for slot, value in proxy.map.items():
            owner = fleet.owners["rooms"].get(int(slot), "")
            assert value == (f"rooms_{after[owner]}" if owner in after else NO_BACKEND)
            if owner in after:
                assert proxy.servers[f"{value}/{owner}"].address == by_name[owner].address
        in_sync = {server.name for server in proxy.servers.values() if server.backend == "pool_sync"}
        assert in_sync == {worker.name for worker in fleet.workers if worker.type == "synchrotron"}
        # whatever is lost meanwhile
        proxy.holes_allowed = True
        for name in chance.sample(sorted(proxy.servers), len(proxy.servers) // 3):
            proxy.run([f"set server {name} state maint", f"del server {name}"])
        for lost in chance.sample(range(SLOTS), 5):
            proxy.run([f"del map rooms.map {lost}"])
        proxy.run(plan_commands(fleet, proxy.state, POOLS, BACKENDS))
        assert plan_commands(fleet, proxy.state, POOLS, BACKENDS) == []


def fleet(*names: str, owner: str = "") -> FleetRouting:
    workers = tuple(FleetWorker(name, "event_persister", f"10.0.0.1:{n}") for n, name in enumerate(names, 1))
    return FleetRouting(workers, {"rooms": dict.fromkeys(range(SLOTS), owner or names[0])})


def test_a_worker_keeps_its_backend_while_others_come_and_go() -> None:
    proxy = ModelProxy()
    proxy.run(plan_commands(fleet("b", "c"), proxy.state, POOLS, BACKENDS))
    assert backend_numbers("rooms", fleet("b", "c"), proxy.state, PERSISTERS, BACKENDS) == {"b": 1, "c": 2}
    proxy.run(plan_commands(fleet("a", "c"), proxy.state, POOLS, BACKENDS))
    assert backend_numbers("rooms", fleet("a", "c"), proxy.state, PERSISTERS, BACKENDS)["c"] == 2


def test_a_server_with_connections_is_left_in_maintenance_and_deleted_later() -> None:
    proxy = ModelProxy()
    proxy.run(plan_commands(fleet("a", "b"), proxy.state, POOLS, BACKENDS))
    proxy.busy = {"rooms_2/b"}
    proxy.run(plan_commands(fleet("a"), proxy.state, POOLS, BACKENDS))
    assert proxy.servers["rooms_2/b"].admin_state == 1
    assert plan_commands(fleet("a"), proxy.state, POOLS, BACKENDS) == [
        "shutdown sessions server rooms_2/b",
        "del server rooms_2/b",
    ]
    # back before it was deleted: the same backend, as good as new
    assert "set server rooms_2/b state ready" in plan_commands(fleet("a", "b"), proxy.state, POOLS, BACKENDS)


def test_requests_of_a_process_without_a_lease_end() -> None:
    """A process that stopped draining, or that only another process backs up, finishes its requests."""
    proxy = ModelProxy()
    proxy.run(plan_commands(fleet("a", "b", "c"), proxy.state, POOLS, BACKENDS))
    leaving = FleetRouting(fleet("a", "b").workers, fleet("a", "b").owners, leased=frozenset({"a", "b", "c"}))
    proxy.run(plan_commands(leaving, proxy.state, POOLS, BACKENDS))
    assert "pool_room_write/c" not in proxy.servers
    assert proxy.ended == []
    proxy.run(plan_commands(fleet("a"), proxy.state, POOLS, BACKENDS))
    assert sorted(proxy.ended) == ["pool_room_write/b", "rooms_1/b.backup", "rooms_2/b"]


def test_requests_to_the_former_address_of_a_process_end() -> None:
    """A process that replaces a stopped one has its name."""
    proxy = ModelProxy()
    proxy.run(plan_commands(fleet("a"), proxy.state, POOLS, BACKENDS))
    moved = FleetRouting((FleetWorker("a", "event_persister", "10.0.0.9:1"),), fleet("a").owners)
    proxy.run(plan_commands(moved, proxy.state, POOLS, BACKENDS))
    assert sorted(proxy.ended) == ["pool_room_write/a", "rooms_1/a"]


def test_more_owners_than_backends_still_serve_through_the_pool() -> None:
    proxy, names = ModelProxy(), [f"p{n}" for n in range(6)]
    proxy.run(plan_commands(fleet(*names, owner="p5"), proxy.state, POOLS, BACKENDS))
    assert set(proxy.map.values()) == {NO_BACKEND}
    assert "pool_room_write/p5" in proxy.servers


def test_an_ipv6_address_is_written_as_haproxy_takes_it() -> None:
    workers = (FleetWorker("a", "synchrotron", "[2001:db8::1]:81"),)
    now = ProxyState((ProxyServer("pool_sync", "a", "[2001:db8::1]:80"),))
    commands = plan_commands(FleetRouting(workers, {}), now, POOLS[1:2])
    assert commands[0] == "set server pool_sync/a addr 2001:db8::1 port 81"


def test_a_servers_id_depends_on_its_name_alone() -> None:
    assert server_arguments("s1", POOLS[1]).split()[:2] == server_arguments("s1", POOLS[0]).split()[:2]
    assert "backup" in server_arguments("s1.backup", PERSISTERS)
    assert "maxconn 7" in server_arguments("s1", PERSISTERS)


def test_no_name_of_a_worker_can_end_a_command() -> None:
    odd = FleetWorker("a b;del server x\n/y.backup", "synchrotron", "10.0.0.1:80")
    commands = plan_commands(FleetRouting((odd,), {}), ProxyState(), POOLS[1:2])
    assert [command.split(" ")[0] for command in commands] == ["add", "enable", "enable"]
    assert all(re.fullmatch(r"pool_sync/[A-Za-z0-9_.:-]+", command.split(" ")[2]) for command in commands)
    assert not server_name(odd.name).endswith(".backup")
    assert server_name("synchrotron-bee.example-17") == "synchrotron-bee.example-17"
