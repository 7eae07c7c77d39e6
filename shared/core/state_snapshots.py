"""PURE: states of a room as small differences: overlays upon a state at hand, snapshots as they are stored.

A room's *line* is its current state through time. Nearly all events have the line as the state before them. Those on
a branch of a fork have a state of their own, kept as an *overlay*: the keys whose entries differ from the line at one
place. Stored, it is a snapshot: a row with the difference from its parent, or from the line.

A long branch makes one snapshot for each change of its state. Were each the child of the one before it, a walk to
the root would grow with the branch; were each a difference from the root, storage would grow with its square. So
step n has step n less the lowest set bit of n as its parent (as in a Fenwick tree): a walk has at most log2(n) rows,
and all n of them together hold at most n * log2(n) / 2 entries.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Snapshot(NamedTuple):
    """A stored state: the parent's with some entries changed.

    nid: its number. parent: another snapshot, or None: then the line before the ordinal `base`. steps: of single
    changes since the root; 0 for a root. added: numbers of the state events that take their keys' places; removed:
    of those that leave without another in their place.
    """

    nid: int
    parent: int | None
    base: int | None
    steps: int
    added: tuple[int, ...]
    removed: tuple[int, ...]


def parent_steps(steps: int) -> int:
    """Return the number of the parent's step: less the lowest set bit."""
    return steps & (steps - 1)


def find_parent(walk: Sequence[Snapshot]) -> int:
    """Return the index in a walk of the parent of the step that follows its first snapshot.

    walk: from a snapshot to its root, each followed by its parent. The next step's parent is always among them.
    """
    wanted = parent_steps(walk[0].steps + 1)
    return next(index for index, snapshot in enumerate(walk) if snapshot.steps == wanted)


def rebase(overlay: Mapping[K, V | None], changes: Mapping[K, tuple[V | None, V | None]]) -> dict[K, V | None]:
    """Return the same state as an overlay upon a base that has changed.

    changes: key -> (what the base held before, what it holds now); None: nothing.
    """
    rebased = dict(overlay)
    for key, (before, now) in changes.items():
        held = rebased.get(key, before)
        if held == now:
            rebased.pop(key, None)
        else:
            rebased[key] = held
    return rebased
