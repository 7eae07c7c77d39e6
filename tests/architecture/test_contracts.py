"""Rules about the structure of the code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import layout

ROOT = Path(__file__).parents[2]
PACKAGES = ("shared", "replication", "workers", "deploy")
#: Folders whose modules and public classes need docstrings.
DOCUMENTED = ("shared/core", "shared/operations", "shared/storage", "replication")


def modules(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_imports_follow_the_layers() -> None:
    lint = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert lint.returncode == 0, lint.stdout


def test_no_import_cycle_and_no_large_folder() -> None:
    assert not layout.faults()


def test_import_cycle_and_large_folder_are_found() -> None:
    sources = {
        "a": "from b import c",
        "b": "",
        "b.c": "def f():\n    import d",
        "d": "if TYPE_CHECKING:\n    from a import A",
        "e": "import a",
    }
    assert sorted(set(layout.circle(layout.imports(sources)))) == ["a", "b.c", "d"]
    assert not layout.circle(layout.imports({**sources, "d": "import b"}))
    folder = [Path(f"x/m{number}.py") for number in range(17)]
    assert layout.large_folders([*folder, Path("x/__init__.py")]) == [
        "x has 17 modules side by side: at most 16 are allowed"
    ]
    assert not layout.large_folders(folder[1:])


def test_parent_of_forked_workers_never_imports_the_reactor() -> None:
    code = (
        "import sys, deploy.local.preload as p, deploy.command.processes.worker_process as w\n"
        "from importlib import import_module\n"
        "[import_module(m) for m in w.WORKER_TYPES.values()]\n"
        "sys.exit('twisted.internet.reactor' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("path", modules(*PACKAGES), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_unfinished_code_markers(path: Path) -> None:
    text = path.read_text()
    for word in ("NotImplementedError", "TO" + "DO", "FIX" + "ME"):
        assert word not in text, f"{path.name} holds {word}"


@pytest.mark.parametrize("path", modules(*DOCUMENTED), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_public_classes_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if not tree.body:
        return
    missing = [] if ast.get_docstring(tree) else ["the module itself"]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not _is_plain(node):
            missing += [node.name] if ast.get_docstring(node) is None else []
    assert not missing, f"without docstring: {', '.join(missing)}"


def _is_plain(node: ast.ClassDef) -> bool:
    """Return True for a record of a few fields and for an error class."""
    return not any(isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) for part in node.body) or len(node.body) < 4


def test_sql_is_in_storage_only() -> None:
    verbs = ("SELECT ", "INSERT INTO ", "UPDATE ", "DELETE FROM ")
    allowed = ("shared/storage/", "deploy/local/servers/postgres.py")
    found = []
    for path in modules(*PACKAGES):
        name = str(path.relative_to(ROOT))
        if name.startswith(allowed):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.lstrip().startswith(verbs):
                found.append(f"{name}:{node.lineno}")
    assert not found, f"SQL outside shared/storage: {found}"


def test_only_one_module_imports_the_redis_client() -> None:
    users = [str(p.relative_to(ROOT)) for p in modules(*PACKAGES) if "import txredisapi" in p.read_text()]
    assert users == ["replication/bus/redis_transport.py"]


#: Modules of clients' reads that read a room's state past `shared/rooms/room_state.py` and `room_facts.py`, and why.
_READ_STATE_THEMSELVES = {
    "workers/synchrotron/finding/notifications.py": "judges push rules by the power levels and the reader's own name",
    "workers/synchrotron/rooms/room_lookups.py": "fills the memory of /sync, which keeps each event once, unredacted",
    "workers/synchrotron/sections/erased_senders.py": "gives events of that memory their forms; reads memberships",
}
_FACT_READERS = {"get_facts", "get_facts_by_nid", "get_space_children"}
_STATE_READERS = ("shared.storage.rooms.state", "shared.storage.rooms.snapshots")


def test_state_is_read_for_clients_where_erased_senders_are_known() -> None:
    found = {}
    for path in modules("workers/synchrotron", "workers/client_api"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                names = {alias.name for alias in node.names}
                reads_facts = node.module == "shared.storage.rooms.public_facts" and names & _FACT_READERS
                if node.module in _STATE_READERS or reads_facts:
                    found[str(path.relative_to(ROOT))] = node.module
    assert set(found) == set(_READ_STATE_THEMSELVES), found
