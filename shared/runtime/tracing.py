"""Tracing: OpenTracing spans through jaeger-client. It is off by default, and costs nothing then.

Other modules use only these four functions. The tracer starts a thread, so it is made after the fork.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import opentracing
from opentracing.ext import tags
from opentracing.scope_managers.contextvars import ContextVarsScopeManager

_tracer: Any = None


def start_tracing(service: str, process: str, host: str, port: int, sample_rate: float) -> None:
    """Send spans as `service` to a Jaeger agent (UDP).

    process: this worker's name, a tag of its spans, since a service has many processes.
    sample_rate: 0 to 1, decided once per request at the edge.
    """
    global _tracer  # noqa: PLW0603 - one tracer per process
    from jaeger_client.config import Config  # noqa: PLC0415 - starts threads, so only if tracing is on

    config = Config(
        {
            "sampler": {"type": "probabilistic", "param": sample_rate},
            "local_agent": {"reporting_host": host, "reporting_port": port},
            "reporter_queue_size": 10_000,  # with the default of 100, bursts lost a third of their spans
            "logging": False,
            "tags": {"process": process},
        },
        service_name=service,
        scope_manager=ContextVarsScopeManager(),
    )
    _tracer = config.new_tracer()


def span(operation: str) -> AbstractContextManager[Any]:
    """Return a context manager for a span below the active one."""
    if _tracer is None:
        return nullcontext()
    scope: AbstractContextManager[Any] = _tracer.start_active_span(operation)
    return scope


def request_span(operation: str, headers: Mapping[bytes, bytes]) -> AbstractContextManager[Any]:
    """Return a context manager for an incoming request's span, a child of the caller's if its headers have one."""
    return nullcontext() if _tracer is None else _request_span(operation, headers)


@contextmanager
def _request_span(operation: str, headers: Mapping[bytes, bytes]) -> Iterator[Any]:
    carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
    parent = _tracer.extract(opentracing.Format.HTTP_HEADERS, carrier)
    with _tracer.start_active_span(operation, child_of=parent) as scope:
        scope.span.set_tag(tags.SPAN_KIND, tags.SPAN_KIND_RPC_SERVER)
        yield scope


def outgoing_headers() -> dict[str, str]:
    """Return headers that make the callee's span a child of the active one, none if tracing is off."""
    if _tracer is None or _tracer.active_span is None:
        return {}
    carrier: dict[str, str] = {}
    _tracer.inject(_tracer.active_span.context, opentracing.Format.HTTP_HEADERS, carrier)
    return carrier
