"""Keys as clients upload them. The server checks only their shape, so nothing here is real cryptography."""

from typing import Any

from shared.core.identifiers import UserId
from tests.rigs.client_api import User
from tests.rigs.requests import Answer

ALGORITHM = "signed_curve25519"


def identity_keys(user_id: UserId, device_id: str, key: str = "key") -> dict[str, Any]:
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


async def claim(by: User, owner: User, algorithm: str = ALGORITHM) -> str | None:
    """Return the id of the claimed key. None: none was left."""
    wanted = {owner.user_id: {owner.device_id: algorithm}}
    answer = await by.call("POST", "/keys/claim", {"one_time_keys": wanted})
    assert answer.status == 200, answer.body
    device = answer.json["one_time_keys"].get(owner.user_id, {}).get(owner.device_id)
    return None if device is None else str(next(iter(device)).partition(":")[2])
