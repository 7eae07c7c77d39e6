"""A fake Jaeger agent: receives the UDP datagrams of jaeger-client and keeps the spans."""

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from jaeger_client.thrift_gen.agent import Agent
from thrift.protocol.TCompactProtocol import TCompactProtocol
from thrift.transport.TTransport import TMemoryBuffer


@dataclass(frozen=True, slots=True)
class Span:
    """One reported span.

    process: the worker's name
    parent: 0 for a root span
    """

    service: str
    process: str
    operation: str
    trace: int
    span: int
    parent: int


class JaegerAgent:
    """A context manager that listens while its block runs.

    datagrams: the number received
    broken: the errors of datagrams that could not be read
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.2)
        self.port: int = self._socket.getsockname()[1]
        self.datagrams = 0
        self.broken: list[str] = []
        self._spans: list[Span] = []
        self._ended = False
        self._thread = threading.Thread(target=self._listen, name="jaeger agent", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended = True
        self._thread.join()
        self._socket.close()

    @property
    def spans(self) -> list[Span]:
        return list(self._spans)

    def wait_for(self, found: Callable[[list[Span]], Any], limit_s: float = 10.0) -> Any:
        """Return the first true result of `found(spans)`. Clients report about once a second."""
        end = time.monotonic() + limit_s
        while not (answer := found(self.spans)):
            if time.monotonic() > end:
                raise AssertionError(f"not found in {len(self._spans)} spans of {self.datagrams} datagrams")
            time.sleep(0.1)
        return answer

    def _listen(self) -> None:
        while not self._ended:
            try:
                datagram = self._socket.recv(65536)
            except TimeoutError:
                continue
            self.datagrams += 1
            try:
                self._spans.extend(_read(datagram))
            except Exception as error:  # the test reports any failure to read; the thread continues
                self.broken.append(repr(error))


def _read(datagram: bytes) -> list[Span]:
    protocol = TCompactProtocol(TMemoryBuffer(datagram))
    protocol.readMessageBegin()
    arguments = Agent.emitBatch_args()
    arguments.read(protocol)
    batch = arguments.batch
    tags = {tag.key: tag.vStr for tag in batch.process.tags or ()}
    service, process = batch.process.serviceName, tags["process"]
    return [
        Span(service, process, span.operationName, span.traceIdLow, span.spanId, span.parentSpanId)
        for span in batch.spans
    ]
