"""The attacker's process: run attacks one after the other, and print a line of JSON after each.

    python -m tests.hostile.attacker < order.json

It is a process of its own, so that its work does not delay the honest users' clients.
"""

import asyncio
import os
import sys
from collections import Counter

import msgspec

from tests.hostile.enemy import Account, Enemy, all_attacks


class Order(msgspec.Struct, kw_only=True):
    """The work of an attacker's process. seconds: the time for each attack."""

    host: str
    port: int
    accounts: list[Account]
    rooms: list[str]
    attacks: list[str]
    seconds: float


class Report(msgspec.Struct, kw_only=True):
    """The result of one attack.

    statuses: how often each status was answered.
    rounds: how often the attack was begun.
    error: the exception that ended it, "" if its time was over.
    """

    name: str
    statuses: dict[int, int]
    rounds: int
    error: str


async def _run(name: str, enemy: Enemy, seconds: float) -> Report:
    enemy.statuses = Counter()
    rounds, error = 0, ""
    run = all_attacks()[name]
    try:
        async with asyncio.timeout(seconds):
            while True:
                rounds += 1
                await run(enemy)
                await asyncio.sleep(0.01)
    except TimeoutError:
        pass
    except Exception as fault:
        error = repr(fault)
    return Report(name=name, statuses=dict(enemy.statuses), rounds=rounds, error=error)


async def _run_all(order: Order) -> None:
    enemy = Enemy(host=order.host, port=order.port, accounts=order.accounts, rooms=order.rooms)
    for name in order.attacks:
        report = await _run(name, enemy, order.seconds)
        print(msgspec.json.encode(report).decode(), flush=True)


if __name__ == "__main__":
    os.nice(10)  # an attacker works on machines of their own
    asyncio.run(_run_all(msgspec.json.decode(sys.stdin.buffer.read(), type=Order)))
