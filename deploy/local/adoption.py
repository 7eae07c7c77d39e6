"""What a former `skep up` on the same directory left running when it was killed, and what of it can stay.

The parent's death takes no worker with it: they go on serving. The next `skep up` adopts them when they run the same
release with the same configuration. Otherwise they are replaced one by one, each draining to the others. Only where
the database or Redis would be another one must all of them end first.
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
    """Return what tells this code with this configuration from any other. config: before servers were filled in."""
    return _hash(version("skep"), sys.prefix, effective_yaml(config))


def servers_of(config: Config) -> str:
    """Return what processes must have in common to work together: database, Redis, server name, keys and secrets."""
    others = {
        each.name: each.default
        for each in dataclasses.fields(config)
        if each.name not in ("database", "redis") and each.default is not dataclasses.MISSING
    }
    return _hash(effective_yaml(dataclasses.replace(config, **others, public_base_url="")))


@dataclass(frozen=True, slots=True)
class Former:
    """The living processes of a former fleet, by name. config: the values that they run with.

    same: they run this release with this configuration.
    """

    processes: dict[str, ProcessRecord]
    config: Config
    same: bool

    def listening(self) -> frozenset[tuple[str, int]]:
        """Return the addresses at which its haproxy listens."""
        if "haproxy" not in self.processes:
            return frozenset()
        listeners = self.config.listeners
        return frozenset((each.host, each.port) for each in (listeners.client, listeners.federation))

    def handle(self, name: str) -> AdoptedProcess | None:
        """Return the process with this name, None where it does not run."""
        record = self.processes.get(name)
        return None if record is None else AdoptedProcess(record.identity)


def former_fleet(data: DataDirectory, config: Config) -> Former | None:
    """Return what can stay of a former fleet; None: nothing runs, or all of it must end.

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
    return Former(processes, former, record.release == release_of(config))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
