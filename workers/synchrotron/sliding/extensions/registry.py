"""The extensions that there are, by name."""

from collections.abc import Iterable, Iterator, Mapping

from workers.synchrotron.sliding.extensions.extension import Extension

#: Of the extensions that tell something of rooms: the bit that says of a room that the client has been told.
#: It stands in stored connections, so a number is never given to another name.
TOLD_BITS: Mapping[str, int] = {"account_data": 1, "receipts": 2, "typing": 4, "org.matrix.msc4354.sticky_events": 8}


class Extensions:
    """Raises ValueError for an extension of rooms that has no bit."""

    def __init__(self, extensions: Iterable[Extension]) -> None:
        self._by_name = {extension.name: extension for extension in extensions}
        for extension in self:
            if extension.per_room and extension.name not in TOLD_BITS:
                raise ValueError(f"{extension.name} has no number in TOLD_BITS")

    def __iter__(self) -> Iterator[Extension]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Extension | None:
        """None: there is no such extension; the client's parameters are ignored then."""
        return self._by_name.get(name)
