"""Every dictionary, list and queue that lives longer than a call has a bound, and `containers.tsv` says which.

    filled    its size is counted, and `test_accounted_sizes.py` compares it with what Python allocates: names of FILLED
    counted   its size is counted in bytes, and tested elsewhere, or its entries have one size each
    part      of another class, which counts it
    work      it has as many entries as requests, tasks or the like are under way, which are limited themselves
    number    entries of a small, fixed size, at most so many
    fleet     it grows with the fleet or the code, and with nothing that a client sends

A new one needs a line there. One that a client can fill needs a budget in bytes (`shared/cache/sizes.py` says how).
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.memory.test_accounted_sizes import FILLED

_ROOT = Path(__file__).parents[2]
_TABLE = Path(__file__).with_name("containers.tsv")
_KINDS = ("filled", "counted", "part", "work", "number", "fleet")
#: The core is pure: what its objects hold is part of their owners here, as in caches. Metrics have label values.
_NOT_HERE = ("shared/core/", "shared/cache/", "shared/config/", "shared/metrics/")
_CONTAINERS = {
    "ByteBudgetCache",
    "KeyedLocks",
    "OrderedDict",
    "Queue",
    "SharedBudgetCache",
    "WeakSet",
    "WeakValueDictionary",
    "array",
    "bytearray",
    "defaultdict",
    "deque",
    "dict",
    "list",
    "set",
}


def _is_empty_container(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Dict):
        return not value.keys
    if isinstance(value, ast.List):
        return not value.elts
    if not isinstance(value, ast.Call):
        return False
    called = value.func.value if isinstance(value.func, ast.Subscript) else value.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in _CONTAINERS and not (name in ("dict", "list", "set") and value.args)


def _attributes(found: ast.ClassDef) -> Iterator[str]:
    """Yield the attributes that begin as empty containers."""
    for node in ast.walk(found):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not _is_empty_container(node.value):
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
                yield target.attr


def _classes_with_containers() -> dict[str, list[str]]:
    found = {}
    for folder in ("shared", "replication", "workers"):
        for path in sorted((_ROOT / folder).rglob("*.py")):
            name = path.relative_to(_ROOT).as_posix()
            if name.startswith(_NOT_HERE):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and (attributes := list(_attributes(node))):
                    found[f"{name[:-3].replace('/', '.')}:{node.name}"] = attributes
    return found


def _table() -> dict[str, str]:
    lines = _TABLE.read_text().splitlines()
    table = dict(line.split("\t") for line in lines)
    assert len(table) == len(lines), "a class is listed twice"
    return table


def test_every_class_with_containers_says_what_bounds_them() -> None:
    table, found = _table(), _classes_with_containers()
    missing = {name: attributes for name, attributes in found.items() if name not in table}
    assert not missing, (
        f"add lines to {_TABLE.name}: what bounds these, and how large can a client make them? {missing}"
    )
    assert table.keys() <= found.keys(), f"remove from {_TABLE.name}: {table.keys() - found.keys()}"


def test_each_bound_is_of_a_known_kind() -> None:
    wrong = {name: bound for name, bound in _table().items() if bound.partition(":")[0] not in _KINDS}
    assert not wrong


def test_table_names_the_caches_that_are_filled() -> None:
    table = _table()
    named = " | ".join(bound for bound in table.values() if bound.startswith("filled:"))
    assert all(name in named for name in FILLED), [name for name in FILLED if name not in named]
    classes = {name.partition(":")[2] for name in table}
    for name, bound in table.items():
        kind, _, what = bound.partition(": ")
        if kind == "part":
            assert what.partition(";")[0] in classes, (name, bound)


def test_finder_sees_containers() -> None:
    code = (
        "class A:\n  def __init__(self):\n    self.a: dict[str, int] = {}\n    self.b = deque()\n    self.c = list(x)\n"
    )
    [found] = ast.parse(code).body
    assert isinstance(found, ast.ClassDef)
    assert list(_attributes(found)) == ["a", "b"]
