"""Declaration of endpoints on the methods that serve them, by the decorator `endpoint`.

    class Reports:
        @endpoint(
            name="report_room",
            method="POST",
            path="/_matrix/client/{version}/rooms/{roomId}/report",
            pool="client",
        )
        async def report_room(self, request: Request) -> Response: ...

`endpoints_of(Reports)` returns the records and needs no object, so tools read endpoints without starting anything.
`handlers_of(reports)` returns the bound methods by endpoint name. Stacked decorators declare several endpoints.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from shared.http.endpoint import Endpoint
from shared.http.request import Handler, Request, Response

Fields = ParamSpec("Fields")
Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])
HandlerMethod = TypeVar("HandlerMethod", bound=Callable[[Any, Request], Awaitable[Response]])

_MARK = "_endpoints"


@dataclass(frozen=True, slots=True)
class _Declared:
    """An endpoint declared on a method. adapt: makes the handler from the bound method."""

    endpoint: Endpoint
    adapt: Callable[[Any], Handler]


def declare(method: Method, record: Endpoint, adapt: Callable[[Any], Handler]) -> Method:
    """Mark a method as serving an endpoint, and return the method. adapt: makes the handler from the bound method."""
    declared = getattr(method, _MARK, ())
    setattr(method, _MARK, (_Declared(record, adapt), *declared))
    return method


def _decorator_of(record: Callable[Fields, Endpoint]) -> Callable[Fields, Callable[[HandlerMethod], HandlerMethod]]:
    def decorator(*args: Fields.args, **fields: Fields.kwargs) -> Callable[[HandlerMethod], HandlerMethod]:
        return lambda method: declare(method, record(*args, **fields), lambda bound: bound)

    return decorator


#: Declares the endpoint that a method serves. The arguments are the fields of `Endpoint`.
endpoint = _decorator_of(Endpoint)


def endpoints_of(*features: type) -> tuple[Endpoint, ...]:
    """Return the endpoints that these classes serve, in the order of their methods."""
    return tuple(declared.endpoint for feature in features for _, declared in _declarations(feature))


def handlers_of(*features: object) -> dict[str, Handler]:
    """Return the handlers of these objects by endpoint name. Raises ValueError if two serve one endpoint."""
    handlers: dict[str, Handler] = {}
    for feature in features:
        for name, declared in _declarations(type(feature)):
            if declared.endpoint.name in handlers:
                raise ValueError(f"two handlers serve {declared.endpoint.name}")
            handlers[declared.endpoint.name] = declared.adapt(getattr(feature, name))
    return handlers


def _declarations(feature: type) -> Iterator[tuple[str, _Declared]]:
    for name, method in vars(feature).items():
        for declared in getattr(method, _MARK, ()):
            yield name, declared
