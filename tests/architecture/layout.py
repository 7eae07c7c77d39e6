"""Check the layout of the code: no import cycle, and no folder with too many modules.

Run by `make check` as `python -m tests.architecture.layout`.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("shared", "replication", "workers", "deploy")
MAX_MODULES = 16
#: Larger folders, with their allowed number of modules.
KNOWN_FOLDERS: Mapping[str, int] = {}


def python_files() -> list[Path]:
    """Return the modules of the four packages, relative to the root."""
    return [path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def large_folders(paths: Iterable[Path], known: Mapping[str, int] = KNOWN_FOLDERS) -> list[str]:
    """Return a line for each folder with too many modules side by side. `__init__.py` does not count."""
    count: dict[str, int] = {}
    for path in paths:
        if path.name != "__init__.py":
            folder = path.parent.as_posix()
            count[folder] = count.get(folder, 0) + 1
    return [
        f"{folder} has {number} modules side by side: at most {known.get(folder, MAX_MODULES)} are allowed"
        for folder, number in sorted(count.items())
        if number > known.get(folder, MAX_MODULES)
    ]


def imports(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return module -> the modules in `sources` that it imports, including imports in functions and for type checks."""
    return {name: set(_imported(text, sources)) for name, text in sources.items()}


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return an import cycle, with its first module again at the end, or []. Each module imports the one before it."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def faults() -> list[str]:
    """Return a line for each fault of the layout."""
    paths = python_files()
    found = circle(imports({_module(path): (ROOT / path).read_text() for path in paths}))
    return large_folders(paths) + ([f"an import cycle: {' <- '.join(found)}"] if found else [])


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(text: str, sources: Mapping[str, str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in sources)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                if member in sources:
                    yield member
                elif node.module in sources:
                    yield node.module


if __name__ == "__main__":
    lines = faults()
    print("\n".join(lines) or "layout: no import cycle, no folder too large")
    sys.exit(bool(lines))
