"""Attacks of one who plays another server, or another process of the fleet."""

from tests.hostile.enemy import Enemy, at_once, attack

_TRANSACTION = b'{"origin":"evil.example","pdus":[' + b",".join([b'{"x":"' + b"y" * 60_000 + b'"}'] * 50) + b"]}"


@attack
async def transactions_without_a_signature(enemy: Enemy) -> None:
    """Whole transactions of three megabytes, with an X-Matrix header that proves nothing, and without one."""
    path = f"/_matrix/federation/v1/send/hostile-{enemy.unique()}"
    await at_once([enemy.request("PUT", path, _TRANSACTION, account=(None, 0)[n % 2]) for n in range(8)])


@attack
async def calls_between_processes(enemy: Enemy) -> None:
    """Paths whose bodies may have 32 MiB, and that only processes of the fleet may call."""
    body = b'{"pdus":[],"wait_s":20}' + b" " * 4_000_000
    room = "%21a%3Ab"
    await at_once([enemy.request("POST", f"/_skep/rooms/{room}/receive", body, account=n % 4) for n in range(4)])
    await at_once([enemy.request("PUT", f"/_skep/rooms/{room}/given_state", body, account=None) for _ in range(4)])
