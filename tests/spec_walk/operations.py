"""The operations in the specification's OpenAPI files, which lie beside this checkout."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

SPEC = Path(__file__).parents[3] / "shared" / "spec"
_API = SPEC / "openapi" / "api" / "client-server"
#: Groups of `endpoints.tsv` that the walk covers.
GROUPS = frozenset(
    {
        "account-data",
        "device",
        "directory",
        "keys/e2ee",
        "membership",
        "presence",
        "profile",
        "push",
        "room-read",
        "room-write",
        "search",
        "spaces",
        "sync",
        "threads/relations",
        "to-device",
        "typing/receipts",
    }
)
#: Operations of these groups that the walk does not cover yet.
LATER: Mapping[str, str] = {
    "uploadCrossSigningKeys": "cross-signing comes with accounts",
    "uploadCrossSigningSignatures": "cross-signing comes with accounts",
    "getPushers": "pushers come with push delivery",
    "postPusher": "pushers come with push delivery",
}
_LATER_FILES = {"key_backup.yaml": "key backup comes with accounts"}


@dataclass(frozen=True, slots=True)
class Operation:
    """A declared operation.

    path: the full path, with parameter names in braces
    responses: status -> schema; None if no JSON is declared
    """

    name: str
    group: str
    method: str
    path: str
    query: frozenset[str]
    responses: Mapping[int, Any]
    file: Path


@cache
def operations() -> Mapping[str, Operation]:
    """Return operationId -> operation for the covered groups, without those that come later."""
    return {
        name: each
        for name, each in declared_operations().items()
        if each.group in GROUPS and name not in LATER and each.file.name not in _LATER_FILES
    }


@cache
def declared_operations() -> Mapping[str, Operation]:
    """Return operationId -> operation for the client-server API."""
    groups = {(row["method"], row["path"]): row["group"] for row in _rows()}
    return {each.name: each for each in _declared(groups)}


def _rows() -> list[dict[str, str]]:
    with (SPEC / "endpoints.tsv").open(encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row for row in rows if row["api"] == "client-server"]


def _declared(groups: Mapping[tuple[str, str], str]) -> Iterator[Operation]:
    for file in sorted(_API.glob("*.yaml")):
        document = load(file)
        servers = document.get("servers") or [{"variables": {"basePath": {"default": ""}}}]
        base = servers[0]["variables"]["basePath"]["default"]
        for path, methods in (document.get("paths") or {}).items():
            whole = base + path.strip()  # a blank distinguishes two operations of one path
            for method, declared in methods.items():
                if not isinstance(declared, dict) or "operationId" not in declared:
                    continue
                parameters = [
                    _followed(each, file) for each in (*declared.get("parameters", ()), *methods.get("parameters", ()))
                ]
                yield Operation(
                    name=declared["operationId"],
                    group=groups.get((method.upper(), whole), ""),
                    method=method.upper(),
                    path=whole,
                    query=frozenset(each["name"] for each in parameters if each.get("in") == "query"),
                    responses={int(status): _schema_of(answer) for status, answer in declared["responses"].items()},
                    file=file,
                )


def _followed(value: Any, file: Path) -> Any:
    """Return a parameter, or the target of its `$ref`."""
    if "$ref" not in value:
        return value
    name, _, inner = value["$ref"].partition("#")
    found = load((file.parent / name).resolve() if name else file)
    for step in filter(None, inner.split("/")):
        found = found[step]
    return found


def _schema_of(answer: Any) -> Any:
    return answer.get("content", {}).get("application/json", {}).get("schema")


@cache
def load(path: Path) -> Any:
    """Return a YAML file's content."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))
