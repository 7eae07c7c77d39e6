"""The registry of streams. Sequences, channels, writers, readers, tokens and metrics come from this one table.

A *log* stream appends rows. A *state* stream has one row per key, with the position of its last change: an update
applies only with a greater position, and a deletion leaves a row. An *ephemeral* stream has no rows in Postgres:
positions are the writer's own counter, a frame carries the whole value of a key and when it ends, and values are lost
with the process or with Redis.

Architecture page, section 4. `checks.py` runs at start: a stream that lacks a part stops the process.
"""

# ruff: noqa: S106 - a token letter is not a secret

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from shared.core import rows
from shared.storage.streams import catch_up

#: The token letter of a stream that is not part of clients' tokens.
NOT_IN_TOKENS = "-"
#: The readers of streams that every process reads.
ALL_WORKERS = (
    "main",
    "event_persister",
    "synchrotron",
    "client_api",
    "federation_reader",
    "federation_sender",
    "background",
    "media",
)


class Kind(Enum):
    LOG = "log"
    STATE = "state"
    EPHEMERAL = "ephemeral"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One stream. Its sequence is `stream_<name>`."""

    name: str
    kind: Kind
    #: Worker types that may write it.
    writers: tuple[str, ...]
    #: Only the owner of the key's slot writes.
    exclusive: bool
    #: The type of the rows in a frame.
    row: type[Any]
    #: The letter of its part in sync tokens, or NOT_IN_TOKENS.
    token_letter: str = ""
    #: For log and state streams: the SELECT of the rows above a position, in position order. Its columns are the fields
    #: of the row. $1: the position, $2: the greatest number of rows.
    catch_up: str = ""
    #: Rows are deleted after this time. None: they stay as long as the data itself.
    retention_s: float | None = None
    #: The field of a row that decides its slot. The order of rows with one key holds.
    key: str = ""
    #: Worker types that may follow it.
    readers: tuple[str, ...] = ()

    @property
    def sequence(self) -> str:
        return f"stream_{self.name}"

    @property
    def channel(self) -> str:
        return self.name


EVENTS = Stream(
    name="events",
    kind=Kind.LOG,
    writers=("event_persister",),
    exclusive=True,
    row=rows.EventRow,
    token_letter="e",
    catch_up=catch_up.EVENTS,
    key="room_id",
    readers=("synchrotron",),
)
RECEIPTS = Stream(
    name="receipts",
    kind=Kind.STATE,
    writers=("client_api", "federation_reader"),
    exclusive=False,
    row=rows.ReceiptRow,
    token_letter="r",
    catch_up=catch_up.RECEIPTS,
    key="room_id",
    readers=("synchrotron",),
)
ACCOUNT_DATA = Stream(
    name="account_data",
    kind=Kind.STATE,
    writers=("client_api",),
    exclusive=True,
    row=rows.AccountDataRow,
    token_letter="a",
    catch_up=catch_up.ACCOUNT_DATA,
    key="user_id",
    readers=("synchrotron",),
)
PUSH_RULES = Stream(
    name="push_rules",
    kind=Kind.STATE,
    writers=("client_api",),
    exclusive=True,
    row=rows.PushRulesRow,
    token_letter="u",
    catch_up=catch_up.PUSH_RULES,
    key="user_id",
    readers=("synchrotron", "event_persister"),
)
SESSIONS = Stream(
    name="sessions",
    kind=Kind.LOG,
    writers=("client_api",),
    exclusive=False,
    row=rows.SessionRow,
    retention_s=86_400,
    token_letter=NOT_IN_TOKENS,
    catch_up=catch_up.SESSIONS,
    key="user_id",
    readers=ALL_WORKERS,
)
TO_DEVICE = Stream(
    name="to_device",
    kind=Kind.LOG,
    writers=("client_api", "federation_reader"),
    exclusive=False,
    row=rows.ToDeviceRow,
    token_letter="m",
    catch_up=catch_up.TO_DEVICE,
    key="user_id",
    readers=("synchrotron",),
)
#: A token from before the retention gets everybody who shares a room with the user.
DEVICE_LISTS = Stream(
    name="device_lists",
    kind=Kind.LOG,
    writers=("client_api", "federation_reader"),
    exclusive=False,
    row=rows.DeviceListRow,
    token_letter="d",
    catch_up=catch_up.DEVICE_LISTS,
    retention_s=14 * 86_400,
    key="user_id",
    readers=("synchrotron",),
)
ONE_TIME_KEYS = Stream(
    name="one_time_keys",
    kind=Kind.LOG,
    writers=("client_api", "federation_reader"),
    exclusive=False,
    row=rows.OneTimeKeyRow,
    token_letter="k",
    catch_up=catch_up.ONE_TIME_KEYS,
    retention_s=2 * 86_400,
    key="user_id",
    readers=("synchrotron",),
)
THREAD_SUBSCRIPTIONS = Stream(
    name="thread_subscriptions",
    kind=Kind.STATE,
    writers=("client_api",),
    exclusive=True,
    row=rows.ThreadSubscriptionRow,
    token_letter="h",
    catch_up=catch_up.THREAD_SUBSCRIPTIONS,
    key="user_id",
    readers=("synchrotron", "event_persister"),
)
TYPING = Stream(
    name="typing",
    kind=Kind.EPHEMERAL,
    writers=("client_api", "federation_reader"),
    exclusive=False,
    row=rows.TypingRow,
    token_letter="t",
    key="room_id",
    readers=("synchrotron",),
)
PRESENCE = Stream(
    name="presence",
    kind=Kind.EPHEMERAL,
    writers=("client_api", "federation_reader"),
    exclusive=False,
    row=rows.PresenceRow,
    token_letter="p",
    key="user_id",
    readers=("synchrotron",),
)

_ALL = (
    EVENTS,
    RECEIPTS,
    ACCOUNT_DATA,
    PUSH_RULES,
    SESSIONS,
    TO_DEVICE,
    DEVICE_LISTS,
    ONE_TIME_KEYS,
    THREAD_SUBSCRIPTIONS,
    TYPING,
    PRESENCE,
)
STREAMS: Mapping[str, Stream] = {stream.name: stream for stream in _ALL}
TOKEN_LETTERS: Mapping[str, str] = {s.name: s.token_letter for s in STREAMS.values() if s.token_letter != NOT_IN_TOKENS}


def streams_written_by(worker_type: str) -> tuple[Stream, ...]:
    return tuple(stream for stream in STREAMS.values() if worker_type in stream.writers)
