"""Keys as clients upload them. The server looks at their shape only: nothing here is real cryptography."""

from typing import Any

from replication.bus import wire
from replication.streams import STREAMS
from tests.rigs.client_api import ClientApi, User
from tests.rigs.requests import Answer

ALGORITHM = "signed_curve25519"


def identity_keys(user_id: str, device_id: str, key: str = "key") -> dict[str, Any]:
    return {
        "user_id": user_id,
        "device_id": device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {f"curve25519:{device_id}": f"c {key}", f"ed25519:{device_id}": f"e {key}"},
        "signatures": {user_id: {f"ed25519:{device_id}": "signature"}},
    }


def one_time_key(content: str) -> dict[str, Any]:
    return {"key": content, "signatures": {"@x:y": {"ed25519:D": "s"}}}


def one_time_keys(*names: str) -> dict[str, Any]:
    return {f"{ALGORITHM}:{name}": one_time_key(f"content of {name}") for name in names}


async def upload(user: User, **parts: Any) -> Answer:
    return await user.call("POST", "/keys/upload", parts)


async def upload_identity(user: User) -> None:
    answer = await upload(user, device_keys=identity_keys(user.user_id, user.device_id))
    assert answer.status == 200, answer.body


async def claim(by: User, whose: User, algorithm: str = ALGORITHM) -> str | None:
    """Return the key id that was claimed."""
    wanted = {whose.user_id: {whose.device_id: algorithm}}
    answer = await by.call("POST", "/keys/claim", {"one_time_keys": wanted})
    assert answer.status == 200, answer.body
    device = answer.json["one_time_keys"].get(whose.user_id, {}).get(whose.device_id)
    return None if device is None else str(next(iter(device)).partition(":")[2])


def announced(worker: ClientApi, stream: str) -> list[Any]:
    """Return the rows that the worker put on a stream."""
    decoder = wire.row_decoder(STREAMS[stream].row)
    frames = [wire.decode_frame(m) for channel, m in worker.bus.published if channel.startswith(stream)]
    return [decoder.decode(row) for frame in frames for row in frame.rows]
