"""PURE: what goes to one other server. Events go in, actions come out. The driver performs them, and reads the clock.

Spec: server-server API, "Transactions": one transaction at a time, repeated until the peer answers 200, with at most 50
PDUs and 100 EDUs.

Items come live, as the driver reads streams, or from the database, if the destination is *behind* in a line (a room, or
a kind of EDU). After a failure the destination is behind in all lines with items that were not delivered, and so it is
when the queue is full. A line that is behind costs nothing for each new item: its first missed ordinal is kept, and the
rest is read once the peer answers. Lines that are behind take turns, those with few items first. Live items of other
lines are sent beside them.

Of a room, the peer gets all missed events in order if they are at most `QueueLimits.all_missed`. Else it gets the
newest extremities, and then, in order, state events and those memberships that concern its users. Of a room in which it
has no joined user, it gets the memberships that concern its users.

**Rows.** The driver stores three things under its lease, in one statement, twice a second:

- for each slot of destinations, a vector: how far the streams were read when a *mark* ended. Marks are numbered; each
  save begins a new one, and an item carries that in which it was enqueued. The vector at the end of mark m is saved
  together with the rows that every queue returns for `SaveDue(mark=m)`. The driver saves the mark before the present
  one, so that a healthy destination, which answers within half a second, needs no row;
- (server, line, first ordinal missed), for each line with an item of mark m or older that was not delivered, whether it
  is behind or not. The row goes when the peer is up to date. So each item up to the vector was delivered, or a row
  covers it;
- (server, failing since, retry at), for each server that does not answer. It changes with attempts, never with items.

`Saved` comes after the commit, and there is one save at a time: the next `SaveDue` comes after `Saved`, or when the
statement has failed for certain. If its outcome is unknown, the process rejoins the fleet with empty memory. The next
owner of a slot reads its vector and rows, and enqueues from the vector on. Items that were delivered after the last
save are sent twice, which the peer sees by their event or message ids.

**Invariants**

- At most one transaction is in flight. Until the peer answers 200, a repeat is equal to it, and has its id.
- A line is live (its items are in `_pdus` or `_edus`), or behind (it is in `_behind`, or in the database alone), or
  neither. It is never both, so its items leave in order.
- All items of a line below `Behind.first` were delivered, or replaced by later ones.
- The memory is bounded by `QueueLimits`, and by the lines that fell behind since the last save.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from shared.core.federation.back_off import wait_ms
from shared.core.federation.catch_up import Behind, Plan, Ready, build_transaction, choose_requests, ready_items
from shared.core.federation.destination_records import (
    MAX_EDUS,
    MAX_PDUS,
    Delivered,
    Enqueued,
    Failed,
    FailingRow,
    FindLines,
    Heard,
    Item,
    Line,
    LinePage,
    LineRequest,
    LineRow,
    LinesFound,
    LinesRead,
    MemoryShort,
    Part,
    QueueAction,
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

#: The wait after the database did not answer, or had nothing new.
_READ_AGAIN_MS = 1_000
#: Lines that were behind lately: the stream may still bring items that were read from the database.
_MAX_CAUGHT_UP = 100

_NOT_FAILING = FailingRow(failing_since_ms=None, retry_at_ms=None)


class DestinationQueue:
    """The queue of one destination. The driver may forget it while `is_idle`."""

    def __init__(self, server: ServerName, limits: QueueLimits) -> None:
        self.server = server
        self.failing_since_ms: int | None = None
        self._limits = limits
        self._stopping = False
        self._not_before_ms = 0
        self._failed_at_ms = 0
        # Live items.
        self._pdus: deque[Item] = deque()
        self._edus: dict[str, Item] = {}
        # In flight, or to be repeated.
        self._transaction: Transaction | None = None
        self._sent: tuple[Ready, ...] = ()
        self._sent_lines: frozenset[Line] = frozenset()
        self._attempt = 0
        self._is_in_flight = False
        # What is behind.
        self._behind: dict[Line, Behind] = {}
        self._rows_elsewhere = False
        self._forgot_since_read = False
        self._ready_pdus: deque[Ready] = deque()
        self._ready_edus: deque[Ready] = deque()
        self._caught_up: dict[Line, int] = {}
        self._served = 0
        # The read under way.
        self._read = 0
        self._requests: dict[Line, LineRequest] | None = None
        self._read_not_before_ms = 0
        # What is stored.
        self._rows: dict[Line, int] = {}
        self._unsaved: set[Line] = set()
        self._failing_row = _NOT_FAILING
        # Attempts that were made because we heard from the peer, and failed.
        self._heard_tries = 0
        self._heard_at_ms = 0
        self._is_heard_try = False

    @property
    def is_idle(self) -> bool:
        """True if a new queue would do the same."""
        return not (
            self._transaction
            or self._pdus
            or self._edus
            or self._behind
            or self._rows_elsewhere
            or self._unsaved
            or self._rows
            or self.failing_since_ms is not None
            or self._failing_row != _NOT_FAILING
        )

    @property
    def may_have_rows(self) -> bool:
        """True if `SaveDue` may return rows. False for a peer that is known to be dead while nothing changes."""
        return bool(
            self._pdus
            or self._edus
            or self._unsaved
            or (self._transaction and not self._sent_lines <= self._behind.keys())
            or self._failing_row != self._failing()
        )

    @property
    def pending(self) -> int:
        """Items in memory, those in flight included."""
        ready = len(self._ready_pdus) + len(self._ready_edus)
        return len(self._pdus) + len(self._edus) + len(self._sent) + ready

    @property
    def lines_in_memory(self) -> int:
        return len(self._behind)

    @property
    def is_behind(self) -> bool:
        return bool(self._behind) or self._rows_elsewhere

    def step(self, event: QueueEvent, now_ms: int) -> Sequence[QueueAction]:
        """Take in one event. now_ms: by the database's clock, as times are compared with stored ones."""
        match event:
            case Enqueued(item=item):
                return self._enqueue(item, now_ms)
            case Delivered():
                return self._delivered(event, now_ms)
            case Failed():
                return self._failed(event, now_ms)
            case TimePassed():
                return self._next(now_ms) or self._wait(now_ms)
            case SaveDue():
                return self._rows_to_save(event.mark)
            case Saved():
                self._saved(event.save)
                return self._next(now_ms)
            case Heard():
                return self._heard(event, now_ms)
            case LinesFound():
                return self._lines_found(event, now_ms)
            case LinesRead():
                return self._lines_read(event, now_ms)
            case ReadFailed():
                return self._read_failed(event, now_ms)
            case MemoryShort():
                self._fall_behind(all_in_flight=False)
                return self._next(now_ms)
            case Restored():
                return self._restore(event, now_ms)
            case Stopping():
                self._stopping = True
                return ()

    # Live items

    def _enqueue(self, item: Item, now_ms: int) -> Sequence[QueueAction]:
        line = item.line
        if line is not None:
            behind = self._behind.get(line)
            if behind is not None:
                behind.last = max(behind.last, item.ordinal)
                return ()
            if self._caught_up and item.ordinal <= self._caught_up.get(line, -1):
                return ()
            if self._rows_elsewhere or self.failing_since_ms is not None:
                self._miss(item, exact=not self._rows_elsewhere or line in self._rows or line in self._unsaved)
                return self._next(now_ms)
        elif self.failing_since_ms is not None:
            return ()
        if item.edu is None:
            self._pdus.append(item)
            if len(self._pdus) > self._limits.pending_pdus:
                self._fall_behind(all_in_flight=False)
        else:
            self._add_edu(item)
        return self._next(now_ms)

    def _add_edu(self, item: Item) -> None:
        key = item.merge_key or f"{item.line}\0{item.ordinal}\0{item.content_id}"
        if item.line is not None:
            self._edus.pop(key, None)  # to the end, so that the ordinals of a line grow
        self._edus[key] = item
        if len(self._edus) > self._limits.pending_edus:
            lost = next((key for key, edu in self._edus.items() if edu.line is None), None)
            if lost is None:
                self._fall_behind(all_in_flight=False)
            else:
                del self._edus[lost]

    def _fall_behind(self, *, all_in_flight: bool) -> None:
        """Keep what is pending as rows.

        all_in_flight: True for what is in flight too. Else only those of its lines with pending items are behind.
        """
        edus = [edu for edu in self._edus.values() if edu.line is not None]
        pending = [*self._pdus, *edus]
        lines = {item.line for item in pending}
        for item in (*(ready.item for ready in self._sent if all_in_flight or ready.item.line in lines), *pending):
            if item.line is not None:
                self._miss(item, exact=True)
        self._pdus.clear()
        self._edus = {key: edu for key, edu in self._edus.items() if edu.line is None}

    def _miss(self, item: Item, *, exact: bool) -> None:
        assert item.line is not None
        behind = self._behind.get(item.line)
        if behind is None:
            self._behind[item.line] = Behind(first=item.ordinal, last=item.ordinal, exact=exact, served=self._served)
            self._unsaved.add(item.line)
        else:
            behind.last = max(behind.last, item.ordinal)

    # Transactions

    def _next(self, now_ms: int) -> Sequence[QueueAction]:
        """Send what can be sent, and read what is behind."""
        if self._stopping or now_ms < self._not_before_ms:
            return ()
        actions: list[QueueAction] = []
        if not self._is_in_flight:
            if self._transaction is None:
                self._compose()
            if self._transaction is not None:
                self._attempt += 1
                self._is_in_flight = True
                actions.append(Send(attempt=self._attempt, transaction=self._transaction))
        if self._behind or self._rows_elsewhere:
            self._read_more(actions, now_ms)
        return actions

    def _compose(self) -> None:
        if not (self._pdus or self._edus or self._ready_pdus or self._ready_edus):
            return
        live_pdus = min(len(self._pdus), max(MAX_PDUS // 2, MAX_PDUS - len(self._ready_pdus)))
        pdus = [_live(self._pdus.popleft()) for _ in range(live_pdus)]
        pdus += [self._ready_pdus.popleft() for _ in range(min(len(self._ready_pdus), MAX_PDUS - live_pdus))]
        live_edus = min(len(self._edus), max(MAX_EDUS // 2, MAX_EDUS - len(self._ready_edus)))
        edus = [_live(self._edus.pop(key)) for key in list(self._edus)[:live_edus]]
        edus += [self._ready_edus.popleft() for _ in range(min(len(self._ready_edus), MAX_EDUS - live_edus))]
        self._sent = (*pdus, *edus)
        self._sent_lines = frozenset(ready.item.line for ready in self._sent if ready.item.line is not None)
        self._transaction = build_transaction(self.server, [one.item for one in pdus], [one.item for one in edus])

    def _delivered(self, event: Delivered, now_ms: int) -> Sequence[QueueAction]:
        if self._transaction is None or event.attempt != self._attempt:
            return ()
        sent = self._sent
        self._transaction, self._sent, self._sent_lines = None, (), frozenset()
        self._is_in_flight = False
        self.failing_since_ms = None
        self._not_before_ms = 0
        self._heard_tries = 0
        self._is_heard_try = False
        through: dict[Line, int] = {}
        for ready in sent:
            line = ready.item.line
            if line is None:
                continue
            if line in self._behind:
                self._behind[line].served += 1
            if ready.through is not None:
                through[line] = max(ready.through, through.get(line, 0))
            elif (plan := self._plan(line)) is not None:
                plan.sent.add(ready.item.ordinal)
                plan.unsent.discard(ready.item.ordinal)
                if not plan.unsent:
                    plan.part = Part.STATE
        for line, ordinal in through.items():
            self._settle(line, ordinal)
        return self._next(now_ms)

    def _settle(self, line: Line, through: int) -> None:
        """Take note that all items of the line up to an ordinal were delivered."""
        behind = self._behind.get(line)
        if behind is None or not behind.exact or through < behind.first:
            return
        behind.first = through + 1
        self._unsaved.add(line)
        if behind.plan is not None and behind.plan.last <= through:
            behind.plan = None
        if behind.first > behind.last:
            del self._behind[line]
            self._caught_up.pop(line, None)
            self._caught_up[line] = through
            if len(self._caught_up) > _MAX_CAUGHT_UP:
                del self._caught_up[next(iter(self._caught_up))]

    def _failed(self, event: Failed, now_ms: int) -> Sequence[QueueAction]:
        if not self._is_in_flight or event.attempt != self._attempt:
            return ()
        self._is_in_flight = False
        if self.failing_since_ms is None:
            self.failing_since_ms = now_ms
        self._fall_behind(all_in_flight=True)
        self._edus.clear()
        self._ready_pdus.clear()
        self._ready_edus.clear()
        self._requests = None  # an answer that is still to come is ignored
        if self._is_heard_try:
            self._heard_tries += 1
            self._is_heard_try = False
        bounds = self._limits.back_off
        asked_ms = min(event.retry_after_ms, bounds.longest_ms)
        self._failed_at_ms = now_ms
        self._not_before_ms = now_ms + max(asked_ms, wait_ms(bounds, self.failing_since_ms, now_ms, event.jitter))
        return (WakeAt(at_ms=self._not_before_ms),)

    # Time

    def _restore(self, event: Restored, now_ms: int) -> Sequence[QueueAction]:
        self.failing_since_ms = event.failing_since_ms
        self._rows_elsewhere = event.is_behind
        self._not_before_ms = min(event.retry_at_ms or 0, now_ms + self._limits.back_off.longest_ms)
        self._failing_row = FailingRow(failing_since_ms=event.failing_since_ms, retry_at_ms=event.retry_at_ms)
        if self._not_before_ms <= now_ms:
            self._not_before_ms = now_ms + int(event.jitter * self._limits.restart_spread_ms)
        return (WakeAt(at_ms=self._not_before_ms),)

    def _heard(self, event: Heard, now_ms: int) -> Sequence[QueueAction]:
        """Try a peer again that is alive. One that never answers is still tried less and less often."""
        limits = self._limits
        if now_ms - self._heard_at_ms > limits.heard_longest_ms:
            self._heard_tries = 0
        self._heard_at_ms = now_ms
        if self.failing_since_ms is None or self._is_in_flight or now_ms >= self._not_before_ms:
            return ()
        pause_ms = min(limits.heard_wait_ms << min(self._heard_tries, 20), limits.heard_longest_ms)
        at_ms = max(self._failed_at_ms + pause_ms, now_ms + int(event.jitter * limits.heard_wait_ms))
        if at_ms >= self._not_before_ms:
            return ()
        self._is_heard_try = True
        self._not_before_ms = at_ms
        return (WakeAt(at_ms=at_ms),)

    def _wait(self, now_ms: int) -> Sequence[QueueAction]:
        at_ms = max(self._not_before_ms, self._read_not_before_ms)
        return (WakeAt(at_ms=at_ms),) if now_ms < at_ms and not self._stopping else ()

    # Reading what is behind

    def _read_more(self, actions: list[QueueAction], now_ms: int) -> None:
        if self._requests is not None or self._ready_pdus or self._ready_edus:
            return
        if self.failing_since_ms is not None and self._transaction is not None:
            return  # first see if the peer answers
        if now_ms < self._read_not_before_ms:
            actions.append(WakeAt(at_ms=self._read_not_before_ms))
            return
        requests = self._choose()
        if requests:
            self._read += 1
            self._requests = {request.line: request for request in requests}
            actions.append(ReadLines(read=self._read, requests=requests))
        elif self._rows_elsewhere:
            self._read += 1
            self._requests = {}
            self._forgot_since_read = False
            actions.append(FindLines(read=self._read, limit=self._limits.lines))

    def _choose(self) -> tuple[LineRequest, ...]:
        waiting = {line: behind for line, behind in self._behind.items() if line not in self._sent_lines}
        requests = choose_requests(waiting)
        if requests:
            self._served = waiting[requests[0].line].served
        return requests

    def _lines_read(self, event: LinesRead, now_ms: int) -> Sequence[QueueAction]:
        if self._requests is None or event.read != self._read:
            return ()
        requests, self._requests = self._requests, None
        is_news = False
        for page in event.pages:
            request, behind = requests.get(page.line), self._behind.get(page.line)
            if request is not None and behind is not None:
                is_news = self._take_page(behind, request, page) or is_news
        return self._after_read(now_ms, is_news=is_news)

    def _take_page(self, behind: Behind, request: LineRequest, page: LinePage) -> bool:
        """Take in a page. Returns False if it brought nothing."""
        if isinstance(page.line, int) and request.part is Part.ALL:
            if not page.joined:
                behind.plan = Plan(part=Part.MEMBERSHIPS, last=max(page.last, behind.first))
                return True
            if page.missed > self._limits.all_missed:
                behind.plan = Plan(part=Part.EXTREMITIES, last=max(page.last, behind.first))
                return True
        if request.part is Part.EXTREMITIES:
            assert isinstance(page.line, int)
            plan = behind.plan
            assert plan is not None
            items = [item for item in page.items if item.ordinal not in plan.sent]
            self._ready_pdus.extend(Ready(item, None) for item in items)
            plan.unsent = {item.ordinal for item in items}
            if not items:
                plan.part = Part.STATE
            return True
        ready = ready_items(page, behind.plan.sent if behind.plan else ())
        if not page.more and not ready:
            first = behind.first
            self._settle(page.line, page.last)
            return page.last >= first
        if not ready and page.items:
            self._settle(page.line, page.items[-1].ordinal)
            return True
        (self._ready_pdus if isinstance(page.line, int) else self._ready_edus).extend(ready)
        return bool(ready)

    def _lines_found(self, event: LinesFound, now_ms: int) -> Sequence[QueueAction]:
        if self._requests is None or event.read != self._read:
            return ()
        self._requests = None
        is_news = False
        for found in event.lines:
            is_news = self._take_row(found.line, found.first, found.newest) or is_news
        if event.complete and not self._forgot_since_read:
            self._rows_elsewhere = False
            is_news = True
            for behind in self._behind.values():
                behind.exact = True
        return self._after_read(now_ms, is_news=is_news)

    def _take_row(self, line: Line, first: int, newest: int) -> bool:
        behind = self._behind.get(line)
        if behind is None:
            if line in self._unsaved:
                return False  # to be deleted
            first = max(first, self._caught_up.get(line, -1) + 1)
            self._rows[line] = first
            if first > newest:
                self._unsaved.add(line)
                return True
            self._behind[line] = Behind(first=first, last=newest, exact=True, served=self._served)
            return True
        if behind.exact:
            return False
        self._rows[line] = behind.first = min(first, behind.first)
        behind.last = max(newest, behind.last)
        behind.exact = True
        return True

    def _read_failed(self, event: ReadFailed, now_ms: int) -> Sequence[QueueAction]:
        if self._requests is None or event.read != self._read:
            return ()
        self._requests = None
        self._read_not_before_ms = now_ms + _READ_AGAIN_MS + int(event.jitter * _READ_AGAIN_MS)
        return (WakeAt(at_ms=max(self._read_not_before_ms, self._not_before_ms)),)

    def _after_read(self, now_ms: int, *, is_news: bool) -> Sequence[QueueAction]:
        if is_news:
            return self._next(now_ms)
        self._read_not_before_ms = now_ms + _READ_AGAIN_MS
        return (*self._next(now_ms), WakeAt(at_ms=max(self._read_not_before_ms, self._not_before_ms)))

    def _plan(self, line: Line) -> Plan | None:
        behind = self._behind.get(line)
        return None if behind is None else behind.plan

    # Rows

    def _rows_to_save(self, mark: int) -> Sequence[QueueAction]:
        waiting: dict[Line, int] = {}
        for item in self._live_items(mark):
            if item.line is not None and item.line not in self._behind:
                waiting.setdefault(item.line, item.ordinal)
        changes = []
        for line in sorted({*self._unsaved, *waiting}, key=str):
            behind = self._behind.get(line)
            first = behind.first if behind is not None else waiting.get(line)
            if first == self._rows.get(line):
                if behind is not None or first is None:
                    self._unsaved.discard(line)
                continue
            changes.append(LineRow(line=line, first=first, keep_existing=behind is not None and not behind.exact))
        failing = self._failing()
        if not changes and failing == self._failing_row:
            return ()
        changed = None if failing == self._failing_row else failing
        return (Save(server=self.server, lines=tuple(changes), failing=changed),)

    def _live_items(self, mark: int) -> Iterable[Item]:
        """Return live items up to a mark that were not delivered, in the order of each line."""
        yield from (ready.item for ready in self._sent if ready.item.mark <= mark)
        for item in self._pdus:
            if item.mark > mark:
                break
            yield item
        yield from (edu for edu in self._edus.values() if edu.mark <= mark)

    def _saved(self, save: Save) -> None:
        if save.failing is not None:
            self._failing_row = save.failing
        for row in save.lines:
            if row.first is None:
                self._rows.pop(row.line, None)
            else:
                self._rows[row.line] = row.first
            behind = self._behind.get(row.line)
            if (None if behind is None else behind.first) == self._rows.get(row.line):
                self._unsaved.discard(row.line)
            else:
                self._unsaved.add(row.line)
        self._forget_lines()

    def _forget_lines(self) -> None:
        """Forget the oldest lines beyond the limit. Their rows are saved."""
        too_many = len(self._behind) - self._limits.lines
        if too_many <= 0:
            return
        used = {*self._unsaved, *self._sent_lines, *(self._requests or ())}
        used.update(ready.item.line for ready in (*self._ready_pdus, *self._ready_edus) if ready.item.line is not None)
        forgotten = [line for line in self._behind if line not in used][:too_many]
        if not forgotten:
            return
        # From now on a line that is not in memory may be behind. So no line may be live.
        self._fall_behind(all_in_flight=True)
        for line in forgotten:
            del self._behind[line]
            del self._rows[line]
        self._rows_elsewhere = self._forgot_since_read = True

    def _failing(self) -> FailingRow:
        if self.failing_since_ms is None:
            return _NOT_FAILING
        return FailingRow(failing_since_ms=self.failing_since_ms, retry_at_ms=self._not_before_ms)


def _live(item: Item) -> Ready:
    return Ready(item, item.ordinal)
