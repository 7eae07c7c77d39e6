"""Compose a federation_reader."""

from replication.process.foundation import Foundation, Worker
from shared.core.identifiers import ServerName
from shared.federation.access import make_key_ring, open_federation
from shared.federation.request_check import RequestCheck
from workers.federation_reader.asking_elsewhere import AskingElsewhere
from workers.federation_reader.key_notary import KeyNotary
from workers.federation_reader.own_server import OwnServer
from workers.federation_reader.queries import Queries


def compose(foundation: Foundation) -> Worker:
    config, clock, database = foundation.config, foundation.clock, foundation.database
    access = open_federation(config, clock, foundation.registry)
    keys = make_key_ring(access, config, database, clock, foundation.registry)
    asking = AskingElsewhere(access.requests, clock)
    own_server = OwnServer(config.server_name, config.signing, clock)

    async def close() -> None:
        await asking.close()
        await keys.close()
        await access.close()

    return Worker(
        features=(
            own_server,
            KeyNotary(config.server_name, access.own_keys, own_server, keys, database, clock),
            Queries(config.server_name, database),
            asking,
        ),
        close=close,
        server_authenticator=RequestCheck(ServerName(config.server_name), keys, clock),
    )
