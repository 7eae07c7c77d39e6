"""A process that talks to itself over Redis: it publishes a number every 50 ms and prints each number it receives.

    python -m tests.replication.bus_talker '{"host": ..., "port": ...}'        fields of `redis`

It prints "up" for each subscription that took effect, and the numbers.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from shared.config.kinds import Secret
from shared.config.sections import Redis, Sentinel
from shared.runtime.reactor import run_until_stopped


def _section(given: dict[str, Any]) -> Redis:
    for name in ("url", "password"):
        if name in given:
            given[name] = Secret(given[name])
    if "ca_file" in given:
        given["ca_file"] = Path(given["ca_file"])
    if "sentinel" in given:
        sentinel = given["sentinel"]
        password = Secret(sentinel["password"]) if "password" in sentinel else None
        given["sentinel"] = Sentinel(hosts=tuple(sentinel["hosts"]), name=sentinel["name"], password=password)
    return Redis(**given)


async def _talk(stop: asyncio.Event) -> int:
    from twisted.internet import reactor

    from replication.bus.redis_transport import RedisTransport

    transport = RedisTransport(reactor, _section(json.loads(sys.argv[1])))
    transport.subscribe(
        ["talk"], lambda _channel, message: print(message.decode(), flush=True), lambda: print("up", flush=True)
    )
    number = 0
    while not stop.is_set():
        number += 1
        transport.publish("talk", b"%d" % number)
        await asyncio.sleep(0.05)
    await transport.close()
    await asyncio.sleep(0.2)
    return 0


if __name__ == "__main__":
    sys.exit(run_until_stopped(_talk))
