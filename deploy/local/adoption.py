"""Processes that a killed `skep up` left running, and which of them the next one keeps.

Workers survive the death of their parent and keep serving. The next `skep up` on the same directory adopts them if they
run the same release with the same configuration. Otherwise it replaces them one by one, and each drains to the others.
Only if the database or Redis differs must all of them end first.
"""

import dataclasses
import hashlib
import sys
from dataclasses import dataclass
from importlib.metadata import version

from deploy.local.children import AdoptedProcess
from deploy.local.data_directory import DataDirectory, ProcessRecord, leftovers
from shared.config.addresses import database_is_named, redis_is_named
from shared.config.load import load_config
from shared.config.problems import ConfigurationError
from shared.config.sections import Config
from shared.config.writing import effective_yaml


def release_of(config: Config) -> str:
    """Return a hash of this code and this configuration. config: as loaded, before embedded servers were filled in."""
    return _hash(version("skep"), sys.prefix, effective_yaml(config))


def servers_of(config: Config) -> str:
    """Return a hash of what processes must share to work together: database, Redis, server name, keys, secrets."""
    others = {
        each.name: each.default
        for each in dataclasses.fields(config)
        if each.name not in ("database", "redis") and each.default is not dataclasses.MISSING
    }
    return _hash(effective_yaml(dataclasses.replace(config, **others, public_base_url="")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Former:
    """The living processes of a former fleet.

    processes: by name.
    config: their effective configuration.
    same: True if they run this release with this configuration.
    """

    processes: dict[str, ProcessRecord]
    config: Config
    same: bool

    def listening(self) -> frozenset[tuple[str, int]]:
        """Return the addresses of its haproxy."""
        if "haproxy" not in self.processes:
            return frozenset()
        listeners = self.config.listeners
        return frozenset((each.host, each.port) for each in (listeners.client, listeners.federation))

    def handle(self, name: str) -> AdoptedProcess | None:
        """Return the process with this name; None if it does not run."""
        record = self.processes.get(name)
        return None if record is None else AdoptedProcess(record.identity)


def former_fleet(data: DataDirectory, config: Config) -> Former | None:
    """Return the part of a former fleet that can stay; None if nothing runs, or all of it must end.

    config: as loaded, with the command line's ports.
    """
    record = data.read_fleet()
    if record is None or record.servers != servers_of(config):
        return None
    processes = {each.name: each for each in leftovers(record.processes)}
    embedded = [
        name
        for name, named in (("postgres", database_is_named(config.database)), ("redis", redis_is_named(config.redis)))
        if not named
    ]
    if not processes or any(name not in processes for name in embedded):
        return None
    try:
        former = load_config(data.effective_config)
    except (OSError, ConfigurationError):
        return None
    return Former(processes=processes, config=former, same=record.release == release_of(config))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
