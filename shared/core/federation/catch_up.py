"""Catching up with a destination, line by line: the next read, and the transactions made from it. Pure functions."""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from shared.core.federation.destination_records import (
    MAX_EDUS,
    MAX_PDUS,
    Item,
    Line,
    LinePage,
    LineRequest,
    Part,
    Transaction,
)
from shared.core.identifiers import ServerName

#: Extremities of one room. Dummy events keep their number below this.
_MAX_EXTREMITIES = 20


@dataclass(slots=True, kw_only=True)
class Plan:
    """The progress of a line that is sent up to `last`.

    sent: the ordinals of extremities that were delivered.
    unsent: those of extremities that were read, and not delivered.
    """

    part: Part
    last: int
    sent: set[int] = field(default_factory=set)
    unsent: set[int] = field(default_factory=set)


@dataclass(slots=True, kw_only=True)
class Behind:
    """A line that is behind.

    first: every ordinal below it was delivered.
    last: the greatest ordinal that may have to be sent.
    exact: False if the database may have a row with a lower `first`.
    served: items sent, to take turns.
    plan: None for all items.
    """

    first: int
    last: int
    exact: bool
    served: int
    plan: Plan | None = None


@dataclass(slots=True, frozen=True)
class Ready:
    """An item that was read. through: what is delivered of its line with it, None for an extremity."""

    item: Item
    through: int | None


def choose_requests(lines: Mapping[Line, Behind]) -> tuple[LineRequest, ...]:
    """Return what to read for one transaction: from the lines that were served least, small ones first."""
    candidates = [
        (behind.served, behind.last - behind.first, str(line), line) for line, behind in lines.items() if behind.exact
    ]
    candidates.sort()
    left = {True: MAX_PDUS, False: MAX_EDUS}
    requests: list[LineRequest] = []
    for _, _, _, line in candidates:
        behind, is_room = lines[line], isinstance(line, int)
        if not left[is_room]:
            continue
        part = behind.plan.part if behind.plan else Part.ALL
        limit = min(left[is_room], behind.last - behind.first + 1)
        if part is Part.EXTREMITIES:
            if left[is_room] < _MAX_EXTREMITIES:
                continue
            limit = _MAX_EXTREMITIES
        left[is_room] -= limit
        last = behind.plan.last if behind.plan else None
        requests.append(LineRequest(line=line, part=part, first=behind.first, last=last, limit=limit))
        if not any(left.values()):
            break
    return tuple(requests)


def ready_items(page: LinePage, sent: Iterable[int]) -> list[Ready]:
    """Return the items of a page, without those that were sent, each with what is delivered of the line with it."""
    ready: list[Ready] = []
    through = page.items[-1].ordinal if page.more and page.items else page.last
    for item in reversed(page.items):
        if item.ordinal not in sent:
            ready.append(Ready(item, through))
            through = item.ordinal - 1
    ready.reverse()
    return ready


def build_transaction(server: ServerName, pdus: Sequence[Item], edus: Sequence[Item]) -> Transaction:
    """Return the transaction with these items.

    Its time is part of the id: a user who types again makes an EDU with the same content.
    """
    at_ms = max(item.at_ms for item in (*pdus, *edus))
    parts = (server, str(at_ms), *(item.content_id for item in pdus), "", *(item.content_id for item in edus))
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=18).digest()
    return Transaction(
        transaction_id=urlsafe_b64encode(digest).decode(), origin_server_ts=at_ms, pdus=tuple(pdus), edus=tuple(edus)
    )
