"""Compose a federation_reader."""

from replication.process.foundation import Foundation, Worker
from workers.federation_reader.own_server import OwnServer


def compose(foundation: Foundation) -> Worker:
    config = foundation.config
    return Worker(features=(OwnServer(config.server_name, config.signing, foundation.clock),))
