"""haproxy's runtime socket: read the state of haproxy and change it.

Each line of commands has its own connection, as the socket wants it. Every exchange has a time limit.
"""

import asyncio
from collections.abc import Iterable, Iterator

from shared.http.endpoint import Pool
from workers.main.haproxy_layout import SLOT_BACKENDS, slot_map, slot_pools
from workers.main.haproxy_plan import END_REQUESTS, FleetRouting, ProxyServer, ProxyState, plan_commands

#: The longest line sent, in bytes. haproxy reads a line into one buffer (`tune.bufsize`, 16,384 unless configured).
_LINE_BYTES = 8_000
#: The longest answer accepted, in bytes. Two maps of 1024 slots and thousands of servers take far less.
_ANSWER_BYTES = 8 << 20
#: Answers of commands that worked. Most answer nothing.
_ACCEPTED = (
    "New server registered.",
    "Server deleted.",
    "no need to change the addr",
    "IP changed from",
    "port changed",
)
_CHECK_ENABLED = 0x04
#: After the end of requests, haproxy has repeated them elsewhere within this time.
_REPEATED_AFTER_S = 0.1


class ProxyError(Exception):
    """haproxy is away or too slow, or its answer is not understood. The next round tries again."""


class HaproxyRuntime:
    """One haproxy. address: the path of its UNIX socket, or "host:port". timeout_s: limits each exchange."""

    def __init__(self, address: str, timeout_s: float = 2.0) -> None:
        self._address = address
        self._timeout_s = timeout_s

    async def ask(self, line: str) -> str:
        """Send one line (commands separated by ";") and return the whole answer. Raises ProxyError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                reader, writer = await self._connect()
                try:
                    writer.write(line.encode() + b"\n")
                    answer = await reader.read(_ANSWER_BYTES)
                    while chunk := await reader.read(_ANSWER_BYTES):
                        answer += chunk
                        if len(answer) > _ANSWER_BYTES:
                            raise ProxyError(f"haproxy at {self._address} answered over {_ANSWER_BYTES} bytes")
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            raise ProxyError(f"haproxy at {self._address}: {error or 'too slow'}") from error
        return answer.decode("utf-8", "replace")

    async def incarnation(self) -> str:
        """Return an identity that changes with a restart or a reload, which empty haproxy. Raises ProxyError."""
        answer = dict(line.partition(": ")[::2] for line in (await self.ask("show info")).splitlines())
        if "Pid" not in answer:
            raise ProxyError(f"unknown format of 'show info': {str(answer)[:100]}")
        return f"{answer['Pid']} since {answer.get('Start_time_sec', '?')}"

    async def read_state(self, kinds: Iterable[str]) -> ProxyState:
        """Return the servers and slot maps. kinds: "rooms", "users". Raises ProxyError."""
        servers = tuple(parse_servers(await self.ask("show servers state")))
        maps = {slot_map(kind): parse_map(await self.ask(f"show map {slot_map(kind)}")) for kind in kinds}
        return ProxyState(servers, maps)

    async def run(self, commands: Iterable[str]) -> list[str]:
        """Run commands in order, many to a line, and return haproxy's complaints. Raises ProxyError."""
        complaints: list[str] = []
        for line in _lines(commands):
            answer = (text.strip() for text in (await self.ask(line)).splitlines())
            complaints += [text for text in answer if text and not text.startswith(_ACCEPTED)]
            if _ends_requests(line):
                await asyncio.sleep(_REPEATED_AFTER_S)
        return complaints

    async def align(
        self, wanted: FleetRouting, pools: tuple[Pool, ...], slot_backends: int = SLOT_BACKENDS
    ) -> list[str]:
        """Compare haproxy with the fleet and repair it. Return haproxy's complaints. Raises ProxyError.

        "Server still has connections attached to it" is a usual one: the next round deletes the server.
        """
        actual = await self.read_state(slot_pools(pools))
        return await self.run(plan_commands(wanted, actual, pools, slot_backends))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if "/" in self._address:
            return await asyncio.open_unix_connection(self._address)
        host, _, port = self._address.rpartition(":")
        return await asyncio.open_connection(host.strip("[]"), int(port))


def parse_servers(answer: str) -> Iterator[ProxyServer]:
    """Parse `show servers state` (format 1). Raises ProxyError for another format."""
    lines = answer.strip().splitlines()
    if len(lines) < 2 or lines[0].strip() != "1" or not lines[1].startswith("# "):
        raise ProxyError(f"unknown format of 'show servers state': {answer[:100]!r}")
    columns = lines[1][2:].split()
    for line in lines[2:]:
        row = dict(zip(columns, line.split(), strict=False))
        try:
            host, port = row["srv_addr"], row["srv_port"]
            yield ProxyServer(
                row["be_name"],
                row["srv_name"],
                f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
                int(row["srv_admin_state"]),
                bool(int(row["srv_check_state"]) & _CHECK_ENABLED),
            )
        except (KeyError, ValueError) as error:
            raise ProxyError(f"unknown line of 'show servers state': {line!r}") from error


def parse_map(answer: str) -> tuple[tuple[str, str], ...]:
    """Parse `show map`: lines of "pointer key value". Raises ProxyError when there is no such map."""
    entries: list[tuple[str, str]] = []
    for line in answer.splitlines():
        words = line.split()
        if not words:
            continue
        if len(words) != 3 or not words[0].startswith("0x"):
            raise ProxyError(f"unknown line of 'show map': {line!r}")
        entries.append((words[1], words[2]))
    return tuple(entries)


def _ends_requests(line: str) -> bool:
    return line.rpartition(";")[2].startswith(END_REQUESTS)


def _lines(commands: Iterable[str]) -> Iterator[str]:
    line = ""
    for command in commands:
        ended = _ends_requests(line) and not _ends_requests(command)
        if line and (ended or len(line) + len(command) > _LINE_BYTES):
            yield line
            line = ""
        line = f"{line};{command}" if line else command
    if line:
        yield line
