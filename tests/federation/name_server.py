"""A DNS server for tests: it answers questions for SRV records from a table."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset


class NameServer(asyncio.DatagramProtocol):
    """records: name -> lines such as "10 5 8448 host.example.". silent: names of which nothing is answered."""

    def __init__(self, records: Mapping[str, list[str]], rcode: dns.rcode.Rcode, silent: bool) -> None:
        self._records, self._rcode, self._silent = records, rcode, silent
        self.questions: list[str] = []
        self.port = 0
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text(omit_final_dot=True)
        self.questions.append(name)
        if self._silent:
            return
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if lines := self._records.get(name):
            answer.answer.append(dns.rrset.from_text(query.question[0].name, 300, "IN", "SRV", *lines))
        else:
            answer.set_rcode(self._rcode)
        self._transport.sendto(answer.to_wire(), addr)


@asynccontextmanager
async def name_server(
    records: Mapping[str, list[str]] | None = None, *, rcode: dns.rcode.Rcode = dns.rcode.NXDOMAIN, silent: bool = False
) -> AsyncIterator[NameServer]:
    """Run a name server. rcode: the answer to all other questions."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(records or {}, rcode, silent), local_addr=("127.0.0.1", 0)
    )
    server.port = transport.get_extra_info("sockname")[1]
    try:
        yield server
    finally:
        transport.close()
