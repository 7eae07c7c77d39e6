"""Messages from device to device, stored per recipient device until it acknowledges them.

Stream `to_device`: any client_api may write. Messages from one device to another stay in order: one statement takes
their positions in order, and a message names its sender's previous one, if another writer wrote that.
Spec: client-server API, "Send-to-Device messaging".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg

from shared.core.identifiers import UserId
from shared.core.sync_tokens.vector import Vector
from shared.storage.engine.fenced import FencedWrite, fenced_statement
from shared.storage.engine.pool import Source
from shared.storage.engine.statements import parameters, statement
from shared.storage.engine.vectors import VectorParameter, is_covered, vector_parameter
from shared.storage.user_data.usage import ROW_BYTES


class MessageToSend(NamedTuple):
    """device_id: "*" for each of the user's devices that has no message of its own. content: JSON."""

    user_id: UserId
    device_id: str
    content: bytes


@parameters
class SendToDevice:
    """sender_device: "" for a token without a device. key: of the transaction.

    max_inbox_bytes: the most that the messages of one device may take.
    """

    sender: UserId
    sender_device: str
    key: bytes
    type: str
    messages: Sequence[MessageToSend]
    max_inbox_bytes: int
    now_ms: int


_SIZE = f"{ROW_BYTES} + octet_length(type) + octet_length(content)"
#: All of one recipient device. Uses the primary key.
_OF_RECIPIENT = "to_device_messages WHERE user_id = r.user_id AND device_id = r.device_id"
#: The running total before the first message.
_BEFORE = f"(SELECT inbox_bytes - ({_SIZE}) FROM {_OF_RECIPIENT} ORDER BY position LIMIT 1)"
#: Of a full inbox each sender has an eighth, so that one of them does not keep the messages of others out. Up to half
#: of an inbox is anyone's.
_SENDERS = 8
#: Uses the primary keys of to_device_messages, to_device_transactions and devices, and
#: to_device_transactions_by_device. Positions are drawn above the sort.
#: `inbox_bytes` is a running total: the size of an inbox is the last row's, less that before the first row. Usually the
#: last row's is small enough by itself: it begins at 0 in an empty inbox. Two senders at the same moment may leave each
#: other out of it. An inbox whose last row has no total, from before quotas, is counted.
SEND_TO_DEVICE = fenced_statement(
    "send_to_device",
    SendToDevice,
    {
        "known": """
            SELECT 1 FROM to_device_transactions
            WHERE user_id = :sender AND device_id = :sender_device AND key = :key
        """,
        "prior": """
            SELECT writer, position FROM to_device_transactions
            WHERE user_id = :sender AND device_id = :sender_device AND position IS NOT NULL
            ORDER BY position DESC LIMIT 1
        """,
        "recipients": f"""
            SELECT DISTINCT ON (d.user_id, d.device_id) d.user_id, d.device_id, w.content,
                   {ROW_BYTES} + octet_length(:type::text) + octet_length(w.content) AS bytes
            FROM fence, :messages AS w(:messages.columns)
            JOIN devices d ON d.user_id = w.user_id AND (d.device_id = w.device_id OR w.device_id = '*')
            WHERE NOT EXISTS (SELECT FROM known)
            ORDER BY d.user_id, d.device_id, w.device_id = '*'
        """,
        "inboxes": f"""
            SELECT r.*, CASE
                WHEN last.position IS NULL THEN 0
                WHEN last.inbox_bytes IS NULL THEN coalesce({_BEFORE}, 0) + (SELECT sum({_SIZE}) FROM {_OF_RECIPIENT})
                ELSE last.inbox_bytes END AS total
            FROM recipients r
            LEFT JOIN LATERAL (
                SELECT position, inbox_bytes FROM {_OF_RECIPIENT} ORDER BY position DESC LIMIT 1) AS last ON true
        """,
        "measured": f"""
            SELECT r.*, CASE WHEN r.total <= :max_inbox_bytes::bigint / 2 THEN r.total
                             ELSE r.total - coalesce({_BEFORE}, 0) END AS used
            FROM inboxes r
        """,
        "sent": f"""
            INSERT INTO to_device_messages (user_id, device_id, writer, position, sender, type, content, inbox_bytes)
            SELECT u.user_id, u.device_id, :lease, nextval('stream_to_device'), :sender, :type, u.content, u.total
            FROM (
                SELECT r.user_id, r.device_id, r.content, r.total + r.bytes AS total FROM fence, measured r
                WHERE r.used + r.bytes <= :max_inbox_bytes AND (r.used <= :max_inbox_bytes / 2 OR r.bytes + (
                    SELECT coalesce(sum({_SIZE}), 0) FROM {_OF_RECIPIENT} AND sender = :sender
                ) <= :max_inbox_bytes / {_SENDERS})
                ORDER BY r.user_id, r.device_id
            ) AS u
            RETURNING position, user_id, device_id
        """,
        "remembered": """
            INSERT INTO to_device_transactions (user_id, device_id, key, writer, position, created_ms)
            SELECT :sender, :sender_device, :key, :lease, (SELECT max(position) FROM sent), :now_ms FROM fence
            WHERE NOT EXISTS (SELECT FROM known)
              AND (EXISTS (SELECT FROM sent) OR NOT EXISTS (SELECT FROM recipients))
        """,
    },
    """(SELECT count(*) FROM recipients) AS recipients, (SELECT sum(bytes) FROM recipients)::bigint AS bytes,
       (SELECT array_agg(position ORDER BY position) FROM sent) AS positions,
       (SELECT array_agg(user_id ORDER BY position) FROM sent) AS users,
       (SELECT array_agg(device_id ORDER BY position) FROM sent) AS devices,
       (SELECT writer FROM prior) AS prior_writer, (SELECT position FROM prior) AS prior_position""",
)


@parameters
class _ReadInbox:
    """since: the messages that it covers are acknowledged. now: messages that it does not cover are left for later."""

    user_id: UserId
    device_id: str
    since: VectorParameter
    now: VectorParameter
    limit: int


#: Both of one device. Use the primary key of to_device_messages.
_INBOX = "to_device_messages m WHERE m.user_id = :user_id AND m.device_id = :device_id"
_ACKNOWLEDGE = f"DELETE FROM {_INBOX} AND {is_covered('m', 'since')}"
_LEFT = f"{_INBOX} AND NOT {is_covered('m', 'since')}"
#: A row without a position says that the inbox is not empty, whatever the rows before it are.
_READ_ROWS = f"""
    (SELECT m.position, m.sender, m.type, m.content FROM {_LEFT} AND {is_covered("m", "now")}
     ORDER BY m.position LIMIT :limit)
    UNION ALL SELECT NULL, NULL, NULL, NULL WHERE EXISTS (SELECT FROM {_LEFT})
"""
_READ = statement(_ReadInbox, _READ_ROWS)
#: The token covers the rows that are deleted, so they are not among those that are read.
_ACKNOWLEDGE_AND_READ = statement(_ReadInbox, f"WITH acknowledged AS ({_ACKNOWLEDGE}) {_READ_ROWS}")
_NOTHING = Vector()


@dataclass(frozen=True, slots=True)
class SentMessages:
    """Messages that were stored.

    stored: (position, user, device) of each device that gets a message, positions ascending.
    refused: the number of devices whose inboxes are too full. If there are others, the message counts as sent.
    bytes: of the messages for all devices.
    prior_writer, prior_position: of the last message of the same sending device before these.
    """

    stored: Sequence[tuple[int, UserId, str]]
    prior_writer: int | None
    prior_position: int | None
    refused: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class ToDeviceMessage:
    """A message in an inbox. content: JSON."""

    position: int
    sender: UserId
    type: str
    content: bytes


async def send_to_device(write: FencedWrite, messages: SendToDevice, streams: Sequence[str]) -> SentMessages:
    """Store messages for those devices that exist. Store nothing for a transaction that was stored before.

    Raises Fenced and NotWritten.
    """
    try:
        row = await write(SEND_TO_DEVICE, messages, streams=streams)
    except asyncpg.UniqueViolationError:
        return SentMessages((), None, None)  # another process stored the same transaction at the same moment
    stored = list(zip(row["positions"] or (), row["users"] or (), row["devices"] or (), strict=True))
    return SentMessages(
        stored,
        row["prior_writer"],
        row["prior_position"],
        refused=row["recipients"] - len(stored),
        bytes=row["bytes"] or 0,
    )


async def read_inbox(
    source: Source, user_id: UserId, device_id: str, since: Vector | None, now: Vector, limit: int
) -> tuple[list[ToDeviceMessage], bool]:
    """Delete the messages that `since` covers. Return (the next messages in order of arrival, any left).

    since: of the token that the device showed. None: it acknowledges nothing.
    now: messages that it does not cover are not returned.
    limit: the most messages.
    any left: True if the inbox is not empty, even if it holds only what is returned.

    The deletion needs no fence: the device has these messages, whichever process deletes them and however late.
    """
    record = _ReadInbox(
        user_id=user_id,
        device_id=device_id,
        since=vector_parameter(since or _NOTHING),
        now=vector_parameter(now),
        limit=limit,
    )
    read = _READ if since is None else _ACKNOWLEDGE_AND_READ
    rows = await source.fetch(*read.bind(record))
    found = sorted((row for row in rows if row[0] is not None), key=lambda row: row[0])
    messages = [ToDeviceMessage(position, by, kind, json) for position, by, kind, json in found]
    return messages, bool(rows)
