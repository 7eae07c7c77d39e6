"""Versions, capabilities, well-known files, and endpoints that are not served."""

import dataclasses

from shared.config.sections import Contact, Federation, Support
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import client_api, make_config
from tests.rigs.requests import SECRET


async def test_versions_capabilities_and_well_known_files_are_served(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        versions = (await worker.call("GET", "/_matrix/client/versions")).json
        assert "v1.1" in versions["versions"]
        assert all(isinstance(value, bool) for value in versions["unstable_features"].values())
        capabilities = (await alice.call("GET", "/capabilities")).json["capabilities"]
        assert capabilities["m.room_versions"]["default"] == "12"
        assert set(capabilities["m.room_versions"]["available"]) == {str(n) for n in range(1, 13)}
        assert (await worker.call("GET", "/capabilities")).errcode == "M_MISSING_TOKEN"
        client = await worker.call("GET", "/.well-known/matrix/client")
        assert client.json == {"m.homeserver": {"base_url": "https://matrix.example.org"}}
        assert client.headers["access-control-allow-origin"] == "*"
        for absent in ("server", "support"):
            answer = await worker.call("GET", f"/.well-known/matrix/{absent}")
            assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
        assert (await alice.call("GET", "/voip/turnServer")).json == {}
        assert (await alice.call("GET", "/thirdparty/protocols")).json == {}
        for path in ("/room_keys/keys", "/nothing"):
            answer = await alice.call("POST", path, {})
            assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")
        assert (await alice.call("POST", "/account/whoami", {})).status == 405

    contact = Contact(role="m.role.security", email_address="help@example.org")
    config = dataclasses.replace(
        make_config(),
        federation=Federation(well_known_server="matrix.example.org:443"),
        support=Support(contacts=(contact,), support_page="https://example.org/help"),
    )
    async with client_api(postgres.dsn, config, "client_api-2") as worker:
        server = await worker.call("GET", "/.well-known/matrix/server")
        assert server.json == {"m.server": "matrix.example.org:443"}
        assert (await worker.call("GET", "/.well-known/matrix/support")).json == {
            "contacts": [{"role": "m.role.security", "email_address": "help@example.org"}],
            "support_page": "https://example.org/help",
        }


async def test_internal_calls_need_the_secret(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        body = {"limit": "message", "key": "@a:example.org", "wanted": 3}
        path = "/_skep/rate_limit/take"
        assert (await worker.call("POST", path, body)).errcode == "M_UNRECOGNIZED"
        answer = await worker.call("POST", path, body, token=SECRET)
        assert answer.json == {"granted": 3, "wait_s": 0.0}
        odd = await worker.call("POST", path, body | {"limit": "odd"}, token=SECRET)
        assert odd.status == 400
