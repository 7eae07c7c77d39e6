"""Room states as small differences: overlays on another state, and snapshots as they are stored.

A room's *line* is its current state through time. For nearly all events the state before the event is the line. Events
on a branch of a fork have a state of their own, kept as an *overlay*: the keys whose entries differ from the line at
one ordinal. In storage it is a snapshot: a row with the difference from its parent, or from the line.

A long branch makes one snapshot for each change of its state. If each were the child of the previous one, a walk to the
root would grow with the branch. If each were a difference from the root, storage would grow with its square. So the
parent of step n is step n less the lowest set bit of n (as in a Fenwick tree): a walk has at most log2(n) rows, and
all n of them together hold at most n * log2(n) / 2 entries.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Snapshot(NamedTuple):
    """A stored state: the state of its parent with some entries changed.

    nid: its number.
    parent: another snapshot, or None for the line before the ordinal `base`.
    steps: the number of changes since the root; 0 for a root.
    added: numbers of the state events that replace others of the same key, or are new.
    removed: numbers of the state events that have no successor of the same key.
    """

    nid: int
    parent: int | None
    base: int | None
    steps: int
    added: tuple[int, ...]
    removed: tuple[int, ...]


def parent_steps(steps: int) -> int:
    """Return the step of the parent: less the lowest set bit."""
    return steps & (steps - 1)


def find_parent(walk: Sequence[Snapshot]) -> int:
    """Return the index of the next step's parent in a walk that starts at the latest snapshot.

    walk: the snapshots from one to its root, each followed by its parent. It always has the next step's parent.
    """
    wanted = parent_steps(walk[0].steps + 1)
    return next(index for index, snapshot in enumerate(walk) if snapshot.steps == wanted)


def rebase(overlay: Mapping[K, V | None], changes: Mapping[K, tuple[V | None, V | None]]) -> dict[K, V | None]:
    """Return the overlay for the same state after its base has changed.

    changes: key -> (value of the base before, value of the base now); None if there is no value.
    """
    rebased = dict(overlay)
    for key, (before, now) in changes.items():
        held = rebased.get(key, before)
        if held == now:
            rebased.pop(key, None)
        else:
            rebased[key] = held
    return rebased
