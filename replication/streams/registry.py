"""The registry of streams: one table from which come sequences, channels, writers, readers, tokens and metrics.

Kinds. *log*: rows are appended. *state*: one row per key with the position of its last change; an update applies only
with a greater position, a deletion leaves a row. *ephemeral*: no rows in Postgres, positions are the writer's own
counter, a frame carries a key's whole new value and when it ends; lost with the process or with Redis.

Architecture page, section 4. `stream_checks.py` runs at start: a stream that lacks something stops the process.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from shared.core import rows
from shared.storage.streams import catch_up

#: The token letter of a stream of which clients' tokens say nothing.
NOT_IN_TOKENS = "-"
#: Worker types, for what every process reads.
EVERYBODY = (
    "main", "event_persister", "synchrotron", "client_api", "federation_reader", "federation_sender", "background",
    "media",
)  # fmt: skip


class Kind(Enum):
    LOG = "log"
    STATE = "state"
    EPHEMERAL = "ephemeral"


@dataclass(frozen=True, slots=True)
class Stream:
    """name: also the sequence `stream_<name>`; writers: worker types that may write it; exclusive: only the owner of
    the key's slot writes; row: what a frame carries; token_letter: its part of sync tokens, or NOT_IN_TOKENS;
    key: the field of a row that decides its slot, and whose order holds; readers: worker types that may follow it;
    catch_up: the SELECT of the rows above a position, in position order (log and state), whose columns are the row's
    fields; $1: greater than this position, $2: at most so many rows.
    retention_s: how long rows are kept; None: as long as the data itself.
    """

    name: str
    kind: Kind
    writers: tuple[str, ...]
    exclusive: bool
    row: type[Any]
    token_letter: str = ""
    catch_up: str = ""
    retention_s: float | None = None
    key: str = ""
    readers: tuple[str, ...] = ()

    @property
    def sequence(self) -> str:
        return f"stream_{self.name}"

    @property
    def channel(self) -> str:
        return self.name


EVENTS = Stream(
    "events",
    Kind.LOG,
    ("event_persister",),
    exclusive=True,
    row=rows.EventRow,
    token_letter="e",  # noqa: S106
    catch_up=catch_up.EVENTS,
    key="room_id",
    readers=("synchrotron",),
)
RECEIPTS = Stream(
    "receipts", Kind.STATE, ("client_api", "federation_reader"), exclusive=False, row=rows.ReceiptRow,
    token_letter="r",  # noqa: S106
    catch_up=catch_up.RECEIPTS, key="room_id", readers=("synchrotron",),
)  # fmt: skip
ACCOUNT_DATA = Stream(
    "account_data", Kind.STATE, ("client_api",), exclusive=True, row=rows.AccountDataRow, token_letter="a",  # noqa: S106
    catch_up=catch_up.ACCOUNT_DATA, key="user_id", readers=("synchrotron",),
)  # fmt: skip
PUSH_RULES = Stream(
    "push_rules", Kind.STATE, ("client_api",), exclusive=True, row=rows.PushRulesRow, token_letter="u",  # noqa: S106
    catch_up=catch_up.PUSH_RULES, key="user_id", readers=("synchrotron", "event_persister"),
)  # fmt: skip
SESSIONS = Stream(
    "sessions", Kind.LOG, ("client_api",), exclusive=False, row=rows.SessionRow, retention_s=86_400,
    token_letter=NOT_IN_TOKENS, catch_up=catch_up.SESSIONS, key="user_id", readers=EVERYBODY,
)  # fmt: skip
TO_DEVICE = Stream(
    "to_device", Kind.LOG, ("client_api", "federation_reader"), exclusive=False, row=rows.ToDeviceRow,
    token_letter="m",  # noqa: S106
    catch_up=catch_up.TO_DEVICE, key="user_id", readers=("synchrotron",),
)  # fmt: skip
#: What a token from before the retention gets: everybody who shares a room.
DEVICE_LISTS = Stream(
    "device_lists", Kind.LOG, ("client_api", "federation_reader"), exclusive=False, row=rows.DeviceListRow,
    token_letter="d",  # noqa: S106
    catch_up=catch_up.DEVICE_LISTS, retention_s=14 * 86_400, key="user_id", readers=("synchrotron",),
)  # fmt: skip
ONE_TIME_KEYS = Stream(
    "one_time_keys", Kind.LOG, ("client_api", "federation_reader"), exclusive=False, row=rows.OneTimeKeyRow,
    token_letter="k",  # noqa: S106
    catch_up=catch_up.ONE_TIME_KEYS, retention_s=2 * 86_400, key="user_id", readers=("synchrotron",),
)  # fmt: skip
THREAD_SUBSCRIPTIONS = Stream(
    "thread_subscriptions", Kind.STATE, ("client_api",), exclusive=True, row=rows.ThreadSubscriptionRow,
    token_letter="h",  # noqa: S106
    catch_up=catch_up.THREAD_SUBSCRIPTIONS, key="user_id", readers=("synchrotron", "event_persister"),
)  # fmt: skip
TYPING = Stream(
    "typing", Kind.EPHEMERAL, ("client_api", "federation_reader"), exclusive=False, row=rows.TypingRow,
    token_letter="t",  # noqa: S106
    key="room_id", readers=("synchrotron",),
)  # fmt: skip
PRESENCE = Stream(
    "presence", Kind.EPHEMERAL, ("client_api", "federation_reader"), exclusive=False, row=rows.PresenceRow,
    token_letter="p",  # noqa: S106
    key="user_id", readers=("synchrotron",),
)  # fmt: skip

_ALL = (
    EVENTS, RECEIPTS, ACCOUNT_DATA, PUSH_RULES, SESSIONS, TO_DEVICE, DEVICE_LISTS, ONE_TIME_KEYS, THREAD_SUBSCRIPTIONS,
    TYPING, PRESENCE,
)  # fmt: skip
STREAMS: Mapping[str, Stream] = {stream.name: stream for stream in _ALL}
TOKEN_LETTERS: Mapping[str, str] = {s.name: s.token_letter for s in STREAMS.values() if s.token_letter != NOT_IN_TOKENS}


def streams_written_by(worker_type: str) -> tuple[Stream, ...]:
    return tuple(stream for stream in STREAMS.values() if worker_type in stream.writers)
