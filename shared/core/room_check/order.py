"""The order of a replay."""

import heapq
from collections.abc import Iterator

from shared.core.room_check.stored_room import Node, StoredRoom


def each_after_its_predecessors(room: StoredRoom) -> Iterator[Node]:
    """Yield the events, each after those that it follows; the live ones by their ordinals as far as that lets.

    Events in a circle, and those that follow one, never come.
    """
    followers: dict[str, list[Node]] = {}
    waits: dict[int, int] = {}
    ready: list[tuple[int, int]] = []
    for node in room.nodes.values():
        named = {event_id for event_id in node.event.prev_event_ids if event_id in room.ids}
        waits[node.nid] = len(named)
        for event_id in named:
            followers.setdefault(event_id, []).append(node)
        if not named:
            heapq.heappush(ready, (node.ordinal or 0, node.nid))
    while ready:
        _, nid = heapq.heappop(ready)
        node = room.nodes[nid]
        yield node
        for follower in followers.pop(node.event.event_id, ()):
            waits[follower.nid] -= 1
            if not waits[follower.nid]:
                heapq.heappush(ready, (follower.ordinal or 0, follower.nid))
