"""A destination queue with the world around it: a database, a stream, a driver and another server, all as plain data.

The driver does what a federation_sender does: it performs actions, saves vector and rows, and restarts from them.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from shared.core.federation.destination_queue import DestinationQueue
from shared.core.federation.destination_records import (
    MAX_EDUS,
    MAX_PDUS,
    Delivered,
    Enqueued,
    Failed,
    FailingRow,
    FindLines,
    Item,
    Line,
    LinePage,
    LineRequest,
    LinesFound,
    LinesRead,
    MissedLine,
    Part,
    QueueEvent,
    QueueLimits,
    ReadFailed,
    ReadLines,
    Restored,
    Save,
    Saved,
    SaveDue,
    Send,
    Stopping,
    Transaction,
)
from shared.core.federation.wake_up import TimePassed, WakeAt
from shared.core.identifiers import ServerName

PEER = ServerName("peer.example")
NO_ROW = FailingRow(failing_since_ms=None, retry_at_ms=None)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An event or EDU of a line, as the database has it.

    kind: "message", "state", "member" (of a user of the peer) or "other" (a membership of somebody else).
    goes_out: False if it does not go to this peer.
    """

    line: Line
    ordinal: int
    kind: str
    goes_out: bool
    at_ms: int

    def item(self, mark: int) -> Item:
        name = f"${self.line}-{self.ordinal}"
        edu = None if isinstance(self.line, int) else name.encode()
        return Item(line=self.line, ordinal=self.ordinal, content_id=name, at_ms=self.at_ms, mark=mark, edu=edu)


def on_the_wire(transaction: Transaction) -> tuple[object, ...]:
    """Return the parts of the request."""
    items = (*transaction.pdus, *transaction.edus)
    return transaction.origin_server_ts, len(transaction.pdus), tuple((item.content_id, item.edu) for item in items)


class World:
    """One queue and its surroundings. `now_ms` is the clock."""

    def __init__(self, limits: QueueLimits) -> None:
        self.limits = limits
        self.now_ms = 1_000_000
        # The database.
        self.lines: dict[Line, list[Stored]] = defaultdict(list)
        self.left_rooms: set[Line] = set()
        self.stream: list[Stored | Item] = []
        self.saved_vector = 0
        self.rows: dict[Line, int] = {}
        self.failing = NO_ROW
        # The other server.
        self.received: dict[str, Transaction] = {}
        self.arrivals: dict[Line | None, list[int]] = defaultdict(list)
        self.extremities: dict[Line, set[int]] = defaultdict(set)
        self.cut: set[Line] = set()
        self.ended_at: dict[Line, int] = {}
        # The driver.
        self.read_stream = 0
        self.mark = 1
        self.mark_ends = {0: 0}
        self.in_flight: list[Send] = []
        self.reads: list[FindLines | ReadLines] = []
        self.save: tuple[Save | None, int] | None = None
        self.wake_at_ms: int | None = None
        self.statements = 0
        self.sent_ids: set[str] = set()
        self.last_sent: dict[Line, int] = {}
        self.queue = DestinationQueue(PEER, limits)

    # What happens here

    def add(self, line: Line, kind: str = "message", *, goes_out: bool = True) -> None:
        stored = Stored(line=line, ordinal=len(self.lines[line]) + 1, kind=kind, goes_out=goes_out, at_ms=self.now_ms)
        self.lines[line].append(stored)
        self.stream.append(stored)

    def deliver_stream(self, count: int | None = None) -> None:
        end = len(self.stream) if count is None else min(len(self.stream), self.read_stream + count)
        while self.read_stream < end:
            stored = self.stream[self.read_stream]
            self.read_stream += 1
            if isinstance(stored, Stored) and stored.goes_out:
                self.step(Enqueued(item=stored.item(self.mark)))

    # The driver

    def step(self, event: QueueEvent) -> None:
        for action in self.queue.step(event, self.now_ms):
            match action:
                case Send():
                    assert not self.in_flight, "two transactions are in flight"
                    self.check_transaction(action.transaction)
                    self.check_new(action.transaction)
                    self.in_flight.append(action)
                case WakeAt(at_ms=at_ms):
                    self.wake_at_ms = at_ms
                case FindLines() | ReadLines():
                    self.reads.append(action)
                case Save():
                    raise AssertionError("a save that nobody asked for")
        limit = 2 * (self.limits.pending_pdus + self.limits.pending_edus + MAX_PDUS + MAX_EDUS)
        assert self.queue.pending <= limit

    def check_transaction(self, transaction: Transaction) -> None:
        assert len(transaction.pdus) + len(transaction.edus) > 0
        assert len(transaction.pdus) <= MAX_PDUS
        assert len(transaction.edus) <= MAX_EDUS
        assert all(item.edu is None for item in transaction.pdus)
        assert all(item.edu is not None for item in transaction.edus)

    def check_new(self, transaction: Transaction) -> None:
        """Until the process dies, items of a line leave in order, each once, extremities of a long gap apart."""
        if transaction.transaction_id in self.sent_ids:
            return
        self.sent_ids.add(transaction.transaction_id)
        for item in (*transaction.pdus, *transaction.edus):
            if item.line is not None and item.ordinal not in self.extremities[item.line]:
                assert item.ordinal > self.last_sent.get(item.line, 0), f"{item.content_id} is late, or sent again"
                self.last_sent[item.line] = item.ordinal

    def advance(self, ms: int) -> None:
        self.now_ms += ms
        if self.wake_at_ms is not None and self.now_ms >= self.wake_at_ms:
            self.wake_at_ms = None
            self.step(TimePassed())

    def begin_save(self) -> None:
        """Ask for the rows of the mark before the present one, and begin the next mark."""
        assert self.save is None
        mark = self.mark - 1
        self.mark_ends[self.mark] = self.read_stream
        self.mark += 1
        saves = [action for action in self.queue.step(SaveDue(mark=mark), self.now_ms) if isinstance(action, Save)]
        self.save = (saves[0] if saves else None, self.mark_ends[mark])

    def save_commits(self) -> None:
        assert self.save is not None
        (save, vector), self.save = self.save, None
        self.store(save, vector)
        if save is not None:
            self.step(Saved(save=save))

    def store(self, save: Save | None, vector: int) -> None:
        self.saved_vector = max(self.saved_vector, vector)
        if save is None:
            return
        self.statements += 1
        assert save.server == PEER
        for row in save.lines:
            if row.first is None:
                self.rows.pop(row.line, None)
            elif not (row.keep_existing and row.line in self.rows):
                self.rows[row.line] = row.first
        if save.failing is not None:
            self.failing = save.failing

    def restart(self, jitter: float, *, is_saved: bool = False) -> None:
        """Begin again from what is stored. is_saved: the statement under way had committed."""
        if self.save is not None and is_saved:
            self.store(*self.save)
        self.save = None
        self.in_flight, self.reads, self.wake_at_ms = [], [], None
        self.read_stream = self.saved_vector
        self.mark, self.mark_ends = 1, {0: self.saved_vector}
        self.queue = DestinationQueue(PEER, self.limits)
        self.sent_ids, self.last_sent = set(), {}
        if self.rows or self.failing != NO_ROW:
            self.step(
                Restored(
                    failing_since_ms=self.failing.failing_since_ms,
                    retry_at_ms=self.failing.retry_at_ms,
                    is_behind=bool(self.rows),
                    jitter=jitter,
                )
            )

    def move(self, jitter: float) -> None:
        """Hand the slot over: stop, save all, and begin elsewhere."""
        self.step(Stopping())
        if self.save is not None:
            self.save_commits()
        self.mark_ends[self.mark] = self.read_stream
        saves = [a for a in self.queue.step(SaveDue(mark=self.mark), self.now_ms) if isinstance(a, Save)]
        self.store(saves[0] if saves else None, self.read_stream)
        self.restart(jitter)

    # The database

    def answer_read(self) -> None:
        read = self.reads.pop(0)
        self.statements += 1
        if isinstance(read, FindLines):
            found = [MissedLine(line=x, first=first, newest=len(self.lines[x])) for x, first in self.rows.items()]
            found.sort(key=lambda line: (line.newest - line.first, str(line.line)))
            complete = len(found) <= read.limit
            self.step(LinesFound(read=read.read, lines=found[: read.limit], complete=complete))
        else:
            assert sum(request.limit for request in read.requests if isinstance(request.line, int)) + 1 > 0
            self.step(LinesRead(read=read.read, pages=[self.page(request) for request in read.requests]))

    def fail_read(self, jitter: float) -> None:
        self.step(ReadFailed(read=self.reads.pop(0).read, jitter=jitter))

    def page(self, request: LineRequest) -> LinePage:
        line = self.lines[request.line]
        last = len(line) if request.last is None else request.last
        assert request.limit > 0
        assert request.first <= last
        missed = [stored for stored in line[request.first - 1 : last] if stored.goes_out]
        chosen = missed
        match request.part:
            case Part.ALL:
                pass
            case Part.EXTREMITIES:
                chosen = missed[-1:]
                self.cut.add(request.line)
                self.extremities[request.line].update(stored.ordinal for stored in chosen)
            case Part.STATE:
                chosen = [stored for stored in missed if stored.kind in ("state", "member")]
            case Part.MEMBERSHIPS:
                chosen = [stored for stored in missed if stored.kind == "member"]
        return LinePage(
            line=request.line,
            items=[stored.item(0) for stored in chosen[: request.limit]],
            last=last,
            more=len(chosen) > request.limit,
            missed=min(len(missed), self.limits.all_missed + 1),
            joined=request.line not in self.left_rooms,
        )

    # The other server

    def peer_gets(self, send: Send) -> None:
        """Deliver a request. The peer knows repeats by their id."""
        transaction = send.transaction
        known = self.received.setdefault(transaction.transaction_id, transaction)
        assert on_the_wire(known) == on_the_wire(transaction), "two transactions with one id"
        for item in (*transaction.pdus, *transaction.edus):
            if item.ordinal not in self.arrivals[item.line]:
                self.arrivals[item.line].append(item.ordinal)

    def peer_answers(self) -> Send:
        send = self.in_flight.pop()
        self.peer_gets(send)
        self.step(Delivered(attempt=send.attempt))
        return send

    def peer_fails(self, jitter: float, *, is_received: bool = False, retry_after_ms: int = 0) -> Send:
        send = self.in_flight.pop()
        if is_received:
            self.peer_gets(send)
        self.step(Failed(attempt=send.attempt, jitter=jitter, retry_after_ms=retry_after_ms))
        return send

    # The end

    def settle(self) -> None:
        """Let everything go well until nothing is left to do."""
        self.deliver_stream()
        for turn in range(5_000):
            if turn % 10 == 9 and self.save is None:
                self.begin_save()
            elif self.in_flight:
                self.peer_answers()
            elif self.reads:
                self.answer_read()
            elif self.save is not None:
                self.save_commits()
            elif self.wake_at_ms is not None and self.queue.is_behind:
                self.advance(max(self.wake_at_ms - self.now_ms, 0))
            elif self.queue.may_have_rows:
                self.begin_save()
            else:
                return
        raise AssertionError("the queue does not come to rest")

    def check_all_arrived(self) -> None:
        """Compare what the peer has with what it must have."""
        for line, stored in self.lines.items():
            arrived = set(self.arrivals[line])
            for one in stored:
                if not one.goes_out:
                    assert one.ordinal not in arrived
                elif line in self.left_rooms:
                    assert one.kind != "member" or one.ordinal in arrived, one
                elif one.kind in ("state", "member") or line not in self.cut:
                    assert one.ordinal in arrived, one
            last = [one.ordinal for one in stored if one.goes_out][-1:]
            assert line in self.left_rooms or set(last) <= arrived

    def check_order(self) -> None:
        """First arrivals came in order, but for lines of which parts were left out."""
        for line, ordinals in self.arrivals.items():
            if line is not None and line not in self.cut and line not in self.left_rooms:
                assert ordinals == sorted(ordinals), line

    def transactions(self) -> Sequence[Transaction]:
        return tuple(self.received.values())
