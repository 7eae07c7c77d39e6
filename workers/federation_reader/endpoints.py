"""The endpoints of inbound federation. Spec: server-server API."""

from shared.http.endpoint import Pool
from shared.http.serving import endpoints_of
from workers.federation_reader.asking_elsewhere import AskingElsewhere
from workers.federation_reader.key_notary import KeyNotary
from workers.federation_reader.own_server import OwnServer
from workers.federation_reader.queries import Queries

POOLS = (
    Pool(name="federation", worker="federation_reader"),
    Pool(name="fetches", worker="federation_reader", slot_kind="fetches", behind_proxies=False),
)
ENDPOINTS = endpoints_of(OwnServer, KeyNotary, Queries, AskingElsewhere)
