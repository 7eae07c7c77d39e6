"""`skep up`: a whole fleet on this machine. The steps are in the order of the file.

The parent has no threads, loops or connections, since workers are forked from it. Work that needs the database is done
in short-lived children.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import resource
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.database_tasks import fence_dead_process, run_migrations
from deploy.haproxy.welcome_page import NOT_THERE_YET, OTHER_DEVICES
from deploy.local.adoption import Former, former_fleet, release_of, servers_of
from deploy.local.before_start import (
    Wanted,
    check_ports,
    end_leftovers,
    name_notes,
    say,
    starting_config,
)
from deploy.local.children import Child, Handle, fork_child
from deploy.local.data_directory import DataDirectory, FleetRecord, ProcessRecord, leftovers
from deploy.local.identity import pick_port
from deploy.local.preload import preload
from deploy.local.servers.certificate import write_self_signed
from deploy.local.servers.haproxy import (
    SOCKET_NAME,
    every_slot_has_an_owner,
    haproxy_program,
    prepare_haproxy,
    servers_in_use,
)
from deploy.local.servers.postgres import prepare_postgres
from deploy.local.servers.program import Program, start, tail_of, wait_until_ready
from deploy.local.servers.redis import prepare_redis, redis_program
from deploy.local.servers.unprivileged import CannotRunHere
from deploy.local.supervisor import Supervisor
from shared.config.addresses import database_dsn_without_password, database_is_named, redis_is_named
from shared.config.remarks import remarks
from shared.config.sections import Config
from shared.config.writing import effective_yaml
from shared.http.endpoint import Endpoint, Pool

#: The groups of processes in the order of their end, with the time limit of each in seconds: below 10 s together.
_STOP_ORDER: tuple[tuple[Callable[[Child], bool], float], ...] = (
    (lambda child: child.type == "haproxy", 0.5),
    (lambda child: child.is_worker, 6.0),
    (lambda child: child.type == "redis", 0.5),
    (lambda child: child.type == "postgres", 2.0),
)
_READY_LIMIT_S = 60.0
#: Seconds from the drain limit of a worker that is replaced until its successor is ready.
_REPLACE_LIMIT_S = 20.0

RunWorker = Callable[[str, str, Config, int], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The parts of Skep that run in the fleet's processes.

    run_worker(type, name, config, listen_port): runs a worker in a child and returns its exit code.
    modules: imported before the first fork.
    """

    run_worker: RunWorker
    modules: Sequence[str]
    endpoints: Sequence[Endpoint]
    pools: Sequence[Pool]


def run_fleet(wanted: Wanted, code: Code) -> int:
    """Start a fleet, wait for a signal, stop all of it; return the exit code.

    Raises CannotRunHere and ConfigurationError. Nothing is left running then.
    """
    began = time.monotonic()
    data = DataDirectory(wanted.data)
    lock = data.lock()
    starting = starting_config(data, wanted)
    former = former_fleet(data, starting.config)
    if former is None:
        end_leftovers(data)
    check_ports(starting.config, former.listening() if former else frozenset())
    fleet = _Fleet(data, starting.config, code, lock, former)
    fleet.supervisor.listen_for_signals()
    preload(code.modules)
    try:
        if fleet.start():
            if starting.unwritten is not None:
                data.write_private(starting.path, starting.unwritten)
                say(f"wrote {starting.path}: for development only, everyone on this machine can register")
            for remark in remarks(starting.config):
                say(remark)
            say(f"ready after {time.monotonic() - began:.1f} s")
            print(fleet.greeting(), flush=True)
            fleet.supervisor.supervise()
    finally:
        fleet.stop()
    return 0


class _Fleet:
    """The running fleet: its parts in the order in which they start."""

    def __init__(self, data: DataDirectory, config: Config, code: Code, lock: int, former: Former | None) -> None:
        self._data = data
        self._config = config
        self._former = former
        # Recorded once all processes run it: a parent killed while it replaces workers must not look done.
        self._release = ""
        self._release_wanted, self._servers = release_of(config), servers_of(config)
        self._code = code
        self._sockets = data.socket_directory()
        self.supervisor = Supervisor(
            say=say,
            fence=lambda name: fence_dead_process(self._config.database, name),
            changed=self._write_record,
            close_in_children=(lock,),
        )

    def start(self) -> bool:
        """Start everything and wait until it answers; False if asked to stop meanwhile."""
        _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
        self._start_servers()
        self._give_listener_a_certificate()
        self._config = dataclasses.replace(
            self._config,
            haproxy=dataclasses.replace(self._config.haproxy, runtime_sockets=(str(self._sockets / SOCKET_NAME),)),
        )
        self._data.write_private(self._data.effective_config, effective_yaml(self._config))
        self._migrate()
        # Before the workers, so that main finds its runtime socket at the first attempt.
        self._start_haproxy()
        counts = self._config.fleet.counts()
        names = {f"{kind}-{number}": kind for kind, count in counts.items() for number in range(1, count + 1)}
        adopted = [child for name, kind in names.items() if (child := self._start_worker(kind, name)) is not None]
        say(f"{len(names) - len(adopted)} workers started" + (f", {len(adopted)} adopted" if adopted else ""))
        if self._former is not None and not self._former.same:
            self._end_others(names)
            if not all(self._replace(child) for child in adopted):
                return False
        self._release = self._release_wanted
        self._write_record()
        return self.supervisor.wait_until(self._everything_answers, _READY_LIMIT_S, "The fleet is not ready")

    def stop(self) -> None:
        """End everything in order; at most 10 s."""
        say("stopping")
        began = time.monotonic()
        self.supervisor.stop_all(_STOP_ORDER)
        with contextlib.suppress(FileNotFoundError):
            self._data.fleet_file.unlink()
        if self._sockets != self._data.run:
            shutil.rmtree(self._sockets, ignore_errors=True)
            (self._data.run / "sockets").unlink(missing_ok=True)
        say(f"all stopped after {time.monotonic() - began:.1f} s")

    def greeting(self) -> str:
        """Return the first information for the operator."""
        skep = _this_command()
        config = self._data.effective_config
        record = self._record()
        notes = (NOT_THERE_YET, OTHER_DEVICES, *name_notes(self._config))
        lines = [
            "",
            f"  Skep is running as {self._config.server_name}",
            f"  clients      {record.client_url}",
            f"  federation   {record.federation_url}",
            f"  database     {record.database}",
            f"  logs         {self._data.logs}",
            "",
            *(f"  {each.name:<22}{each.address}  (pid {each.pid})" for each in record.processes[1:]),
            "",
            "  make a user:   " + _command(skep, "user", "register", "--config", config, "alice"),
            "  show status:   " + _command(skep, "status", "--config", config),
            "  add a worker:  " + _command(skep, "worker", "synchrotron", "--config", config),
            "  stop:          Ctrl-C",
            "",
            *(line for text in notes for line in _wrapped(text)),
            "",
        ]
        return "\n".join(lines)

    def _start_servers(self) -> None:
        """Start PostgreSQL and Redis if the configuration names none."""
        if not database_is_named(self._config.database):
            if not (self._data.path / "postgres").exists():
                say("making the database (once)")
            program, section = prepare_postgres(self._data.path, self._sockets)
            database = dataclasses.replace(
                self._config.database, hosts=section.hosts, port=section.port, user=section.user, name=section.name
            )
            self._config = dataclasses.replace(self._config, database=database)
            self._start_program(program)
        if not redis_is_named(self._config.redis):
            if self._former is None:
                program, found = prepare_redis(self._data.run)
            else:
                found = self._former.config.redis
                program = redis_program(self._data.run, found)
            redis = dataclasses.replace(self._config.redis, host=found.host, port=found.port, password=found.password)
            self._config = dataclasses.replace(self._config, redis=redis)
            self._start_program(program)

    def _start_haproxy(self) -> None:
        """Start haproxy, unless the running one has the same configuration."""
        running = None if self._former is None else self._former.handle("haproxy")
        if running is not None and self._former is not None and self._former.same:
            self._start_program(haproxy_program(self._config, self._data.run))
            return
        if running is not None:
            running.send_signal(signal.SIGTERM)
            self.supervisor.wait_until(lambda: running.poll() is not None, 5.0, "The former haproxy does not end")
        program = prepare_haproxy(self._config, self._code.endpoints, self._code.pools, self._data.run, self._sockets)
        self._start_program(program, adopt=False)

    def _start_program(self, program: Program, *, adopt: bool = True) -> None:
        """Start a program and wait until it answers. adopt: True to keep the one of a former fleet instead."""
        log = self._data.log_of(program.name)
        process = None

        def begin() -> tuple[Handle, str]:
            nonlocal process
            process = start(program, log)
            return process, program.address

        child = Child(
            name=program.name,
            type=program.type,
            log=log,
            start=begin,
            is_worker=False,
            stop_signal=program.stop_signal,
            kill_signal=program.kill_signal,
        )
        running = self._former.handle(program.name) if adopt and self._former is not None else None
        if running is not None:
            self.supervisor.adopt(child, running, program.address)
            say(f"{program.name} is adopted, pid {running.pid}")
            return
        self.supervisor.start(child)
        assert process is not None
        wait_until_ready(program, process, log, 30.0)
        say(f"{program.name} is ready at {program.address}")

    def _start_worker(self, worker_type: str, name: str) -> Child | None:
        """Start a worker, or adopt the one of a former fleet and return it."""
        log = self._data.log_of(name)
        host = self._config.workers.listen_host

        def begin() -> tuple[Handle, str]:
            port = pick_port(host)
            close = self.supervisor.close_in_children
            process = fork_child(lambda: self._code.run_worker(worker_type, name, self._config, port), log, close)
            return process, f"{host}:{port}"

        child = Child(name=name, type=worker_type, log=log, start=begin, is_worker=True)
        running = None if self._former is None else self._former.handle(name)
        if self._former is None or running is None:
            self.supervisor.start(child)
            return None
        self.supervisor.adopt(child, running, self._former.processes[name].address)
        return child

    def _replace(self, child: Child) -> bool:
        """Let an adopted worker drain and end, and start its successor; False if asked to stop meanwhile."""
        former = child.handle
        if former is None:
            return True
        say(f"{child.name} runs another release or configuration and is replaced")
        former.send_signal(child.stop_signal)
        limit_s = self._config.workers.drain_limit_s + _REPLACE_LIMIT_S

        def replaced() -> bool:
            return child.handle not in (None, former) and _answers(child.address, "/health/ready")

        return self.supervisor.wait_until(replaced, limit_s, f"{child.name} is not replaced")

    def _end_others(self, names: Container[str]) -> None:
        """End the workers of the former fleet that the configuration does not have any more."""
        assert self._former is not None
        for name, record in self._former.processes.items():
            handle = self._former.handle(name)
            if record.type in self._config.fleet.counts() and name not in names and handle is not None:
                say(f"{name} is not in the configuration any more, and ends")
                handle.send_signal(signal.SIGTERM)

    def _migrate(self) -> None:
        log = self._data.log_of("migrate")
        process = fork_child(self._run_migrations, log, self.supervisor.close_in_children)
        while (code := process.poll()) is None:
            self.supervisor.wait(0.1)
        if code:
            raise CannotRunHere(f"The database could not be migrated:\n{tail_of(log)}")

    def _run_migrations(self) -> int:
        for migration in run_migrations(self._config.database):
            print(f"migrated to {migration.number} ({migration.name})")
        return 0

    def _give_listener_a_certificate(self) -> None:
        federation = self._config.listeners.federation
        if not federation.tls or federation.certificate_file is not None:
            return
        path = self._data.tls / "self-signed.pem"
        write_self_signed(path, self._config.server_name)
        listeners = dataclasses.replace(
            self._config.listeners, federation=dataclasses.replace(federation, certificate_file=path)
        )
        self._config = dataclasses.replace(self._config, listeners=listeners)

    def _everything_answers(self) -> bool:
        """Tell whether each worker is ready, haproxy knows all of them, and a client gets an answer."""
        workers = [each for each in self.supervisor.records() if each.type in self._config.fleet.counts()]
        expected = sum(self._config.fleet.counts().values())
        if len(workers) < expected or not all(_answers(each.address, "/health/ready") for each in workers):
            return False
        pools = [pool for pool in self._code.pools if pool.behind_proxies]
        behind_haproxy = {pool.worker for pool in pools}
        in_use = servers_in_use(self._sockets / SOCKET_NAME)
        if not all(each.name in in_use for each in workers if each.type in behind_haproxy):
            return False
        kinds = {pool.slot_kind for pool in pools if pool.slot_kind}
        if not every_slot_has_an_owner(self._sockets / SOCKET_NAME, kinds):
            return False
        client = self._config.listeners.client
        return _answers(f"{_reachable(client.host)}:{client.port}", "/_matrix/client/versions")

    def _processes(self) -> tuple[ProcessRecord, ...]:
        """Return our processes, and those of the former fleet that are neither adopted nor ended."""
        ours = self.supervisor.records()
        names = {each.name for each in ours}
        former = () if self._former is None else leftovers(tuple(self._former.processes.values()))
        return (*ours, *(each for each in former if each.name not in names and each.type != "supervisor"))

    def _record(self) -> FleetRecord:
        listeners = self._config.listeners
        scheme = "https" if listeners.federation.tls else "http"
        return FleetRecord(
            parent_pid=os.getpid(),
            config=str(self._data.effective_config),
            client_url=f"http://{_reachable(listeners.client.host)}:{listeners.client.port}",
            federation_url=f"{scheme}://{_reachable(listeners.federation.host)}:{listeners.federation.port}",
            database=database_dsn_without_password(self._config.database)
            if database_is_named(self._config.database)
            else "",
            processes=self._processes(),
            release=self._release,
            servers=self._servers,
        )

    def _write_record(self) -> None:
        self._data.write_fleet(self._record())


def _answers(address: str, path: str) -> bool:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=0.5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _this_command() -> str:
    """Return the command for `skep` in the operator's directory, since it is seldom on the PATH."""
    script = Path(sys.executable).parent / "skep"
    if not script.exists():
        return "skep"
    here = Path.cwd()
    return str(script.relative_to(here)) if script.is_relative_to(here) else str(script)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "") else host  # noqa: S104 - compared, not bound


def _command(*words: object) -> str:
    return " ".join(json.dumps(str(each)) if " " in str(each) else str(each) for each in words)
