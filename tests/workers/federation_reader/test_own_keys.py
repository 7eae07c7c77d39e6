"""Our published keys. Spec: server-server API, "Publishing Keys"."""

from typing import Any

import orjson

from shared.config.kinds import Secret
from shared.config.sections import OldKey, Signing
from shared.core.canonical_json import decode_unpadded, encode_canonical
from shared.core.signing.json_signatures import verify_json
from tests.rigs.clock import MockClock
from workers.federation_reader.own_server import OwnServer

_SEEDS = ("A" * 43, "B" * 42 + "A")


async def test_keys_are_signed_by_each_and_renewed() -> None:
    clock = MockClock()
    secret = Secret("".join(f"ed25519 k_{n} {seed}\n" for n, seed in enumerate(_SEEDS)))
    config = Signing(
        key=secret, old_keys=(OldKey(key_id="ed25519:old", public_key="C" * 43, expired_ms=5),), validity_s=3600
    )
    keys = OwnServer("example.org", config, clock)
    nothing: Any = None

    async def get() -> dict[str, Any]:
        body = (await keys.get_server_keys(nothing)).body
        assert isinstance(body, bytes)
        answer: dict[str, Any] = orjson.loads(body)
        assert body == encode_canonical(answer), "other servers compare the bytes"
        return answer

    answer = await get()
    assert answer["server_name"] == "example.org"
    assert answer["old_verify_keys"] == {"ed25519:old": {"key": "C" * 43, "expired_ts": 5}}
    assert set(answer["verify_keys"]) == {"ed25519:k_0", "ed25519:k_1"}
    for key_id, key in answer["verify_keys"].items():
        verify_json(answer, "example.org", key_id, decode_unpadded(key["key"]))
    assert answer["valid_until_ts"] == clock.now_ms() + 3_600_000
    clock.advance(1799)
    assert await get() == answer
    clock.advance(2)
    assert (await get())["valid_until_ts"] == clock.now_ms() + 3_600_000


async def test_version() -> None:
    nothing: Any = None
    server = OwnServer("example.org", Signing(key=Secret(f"ed25519 k_0 {_SEEDS[0]}")), MockClock())
    body = (await server.get_server_version(nothing)).body
    assert isinstance(body, bytes)
    assert orjson.loads(body)["server"]["name"] == "Skep"
