"""What a configuration value may be: secrets, and the limits that a field's type carries.

A field says its limits in its type (`Annotated[int, Range(1, 65535)]`), so that the loader's check, the JSON
schema and the documentation come from one place.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated


class Secret:
    """A text that must not reach a log, a trace-back or an error message: only `reveal` gives it away."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(hidden)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True)
class Range:
    """Least and greatest value of a number; None: no limit on that side."""

    least: float | None = None
    greatest: float | None = None

    def holds(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.greatest is None or value <= self.greatest)

    def words(self) -> str:
        if self.least is not None and self.greatest is not None:
            return f"from {self.least:g} to {self.greatest:.12g}"
        return f"of at least {self.least:g}" if self.least is not None else f"of at most {self.greatest:g}"


@dataclass(frozen=True, slots=True)
class Form:
    """The grammar of a text: the whole of it must match. words: what it is, for people, with an example."""

    pattern: str
    words: str

    def holds(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None


@dataclass(frozen=True, slots=True)
class IpNetwork:
    """A text that is an address or a network in CIDR form."""

    words: str = 'an IP network such as "10.0.0.0/8"'


@dataclass(frozen=True, slots=True)
class ReadableFile:
    """A path that must name a file which this process can read when the configuration is loaded."""


Port = Annotated[int, Range(1, 65535)]
PortOrPicked = Annotated[int, Range(0, 65535)]
Seconds = Annotated[float, Range(0)]
Count = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
Fraction = Annotated[float, Range(0, 1)]
Network = Annotated[str, IpNetwork()]
#: Spec: appendices, "Server Name"; the host part is judged as loosely as the grammar there does.
ServerName = Annotated[
    str,
    Form(r"(\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z.-]{1,255})(:[0-9]{1,5})?", 'a server name such as "example.org"'),
]
HttpUrl = Annotated[str, Form(r"https?://[^\s/?#]+(/[^\s?#]*)?", 'a URL such as "https://matrix.example.org"')]
InputFile = Annotated[Path, ReadableFile()]
