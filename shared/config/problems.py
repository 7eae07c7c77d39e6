"""Problems of a configuration, collected so that an operator can mend all of them at once."""

from dataclasses import dataclass
from pathlib import Path

from shared.core.errors import SkepError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    key: the path of the setting, such as "database.port".
    expected: type, limits and unit in words.
    found: the present value in words.
    """

    key: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.key}: expected {self.expected}, found {self.found}"


class ConfigurationError(SkepError):
    """The configuration cannot be used. The message lists every problem, one a line."""

    def __init__(self, source: Path | str, problems: tuple[Problem, ...]) -> None:
        lines = "\n".join(f"  {problem}" for problem in problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{source}: {count}\n{lines}")
        self.problems = problems


def describe(value: object) -> str:
    """Describe a YAML value in a few words, for "found ..."."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return f"{str(value).lower()} (a boolean)"
        case int() | float():
            return f"{value} (a number)"
        case str():
            return f'"{value[:60]}" (text)'
        case list():
            return f"a list of {len(value)}"
        case dict():
            return f"a mapping with {', '.join(map(str, list(value)[:4])) or 'no keys'}"
        case _:
            return f"{value!r} ({type(value).__name__})"
