"""Puts a federation_reader together."""

from replication.process.foundation import Foundation, Worker
from workers.federation_reader.own_keys import OwnKeys, get_server_version


def compose(foundation: Foundation) -> Worker:
    config = foundation.config
    keys = OwnKeys(config.server_name, config.signing, foundation.clock)
    return Worker(handlers={"get_server_keys": keys.get_server_keys, "get_server_version": get_server_version})
