"""Messages from device to device: stored per recipient device until that device acknowledges them.

Stream `to_device`: any client_api may write. One device's messages to another stay in order: one statement takes their
positions in order, and a message names the one that its sender sent before, if another writer wrote it.
Spec: client-server API, "Send-to-Device messaging".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from shared.core.identifiers import UserId
from shared.core.sync_tokens.vector import Vector
from shared.storage.engine.fenced import FencedWrite, fenced_statement
from shared.storage.engine.pool import Source

#: $2 sender, $3 his device or '', $4 transaction key, $5 type, $6 users, $7 devices ('*': each of the
#: user's that has no message of its own), $8 contents, $9 now. Uses the primary keys of to_device_transactions and
#: devices, and to_device_transactions_by_device. Positions are drawn above the sort.
SEND_TO_DEVICE = fenced_statement(
    "send_to_device",
    {
        "known": "SELECT 1 FROM to_device_transactions WHERE user_id = $2 AND device_id = $3 AND key = $4",
        "prior": """
            SELECT writer, position FROM to_device_transactions
            WHERE user_id = $2 AND device_id = $3 AND position IS NOT NULL ORDER BY position DESC LIMIT 1
        """,
        "sent": """
            INSERT INTO to_device_messages (user_id, device_id, writer, position, sender, type, content)
            SELECT u.user_id, u.device_id, $1, nextval('stream_to_device'), $2, $5, u.content
            FROM (
                SELECT DISTINCT ON (d.user_id, d.device_id) d.user_id, d.device_id, w.content
                FROM fence, unnest($6::text[], $7::text[], $8::bytea[]) AS w(user_id, device_id, content)
                JOIN devices d ON d.user_id = w.user_id AND (d.device_id = w.device_id OR w.device_id = '*')
                WHERE NOT EXISTS (SELECT FROM known)
                ORDER BY d.user_id, d.device_id, w.device_id = '*'
            ) AS u
            RETURNING position, user_id, device_id
        """,
        "remembered": """
            INSERT INTO to_device_transactions (user_id, device_id, key, writer, position, created_ms)
            SELECT $2, $3, $4, $1, (SELECT max(position) FROM sent), $9 FROM fence
            WHERE NOT EXISTS (SELECT FROM known)
        """,
    },
    """(SELECT array_agg(position ORDER BY position) FROM sent) AS positions,
       (SELECT array_agg(user_id ORDER BY position) FROM sent) AS users,
       (SELECT array_agg(device_id ORDER BY position) FROM sent) AS devices,
       (SELECT writer FROM prior) AS prior_writer, (SELECT position FROM prior) AS prior_position""",
)

#: Both of one device. Use the primary key of to_device_messages. $3 to $6: a vector.
_COVERED = """
    m.writer <= {known} AND m.position <= coalesce(
        (SELECT a.position FROM unnest({writers}::bigint[], {positions}::bigint[]) AS a(writer, position)
         WHERE a.writer = m.writer), {base}::bigint)
"""
_BY_SINCE = _COVERED.format(known="$3", base="$4", writers="$5", positions="$6")
_BY_NOW = _COVERED.format(known="$7", base="$8", writers="$9", positions="$10")
_ACKNOWLEDGE = f"DELETE FROM to_device_messages m WHERE m.user_id = $1 AND m.device_id = $2 AND {_BY_SINCE}"
_LEFT = f"to_device_messages m WHERE m.user_id = $1 AND m.device_id = $2 AND NOT ({_BY_SINCE})"
#: A row without a position tells that the inbox is not empty, whatever the rows before it are.
_READ = f"""
    (SELECT m.position, m.sender, m.type, m.content FROM {_LEFT} AND {_BY_NOW} ORDER BY m.position LIMIT $11)
    UNION ALL SELECT NULL, NULL, NULL, NULL WHERE EXISTS (SELECT FROM {_LEFT})
"""
#: What the deletion takes is covered by the token, so the reading does not want it.
_ACKNOWLEDGE_AND_READ = f"WITH acknowledged AS ({_ACKNOWLEDGE}) {_READ}"
_NOTHING = Vector()


@dataclass(frozen=True, slots=True)
class MessageToSend:
    """device_id: "*" for each of the user's that has no message of its own; content: JSON."""

    user_id: UserId
    device_id: str
    content: bytes


@dataclass(frozen=True, slots=True)
class SentMessages:
    """stored: (position, user, device) of each device that gets one, positions ascending.

    prior_writer, prior_position: the last message of the same sending device before these.
    """

    stored: Sequence[tuple[int, UserId, str]]
    prior_writer: int | None
    prior_position: int | None


@dataclass(frozen=True, slots=True)
class ToDeviceMessage:
    """content: JSON."""

    position: int
    sender: UserId
    type: str
    content: bytes


async def send_to_device(
    write: FencedWrite, sender: UserId, sender_device: str, key: bytes, type_: str, messages: Sequence[MessageToSend],
    now_ms: int, streams: Sequence[str],
) -> SentMessages:  # fmt: skip
    """Store messages for the devices there are; nothing for a transaction that was stored before.

    sender_device: "" for a token without one; key: of the transaction. Raises Fenced, asyncpg's passing errors.
    """
    try:
        row = await write(
            SEND_TO_DEVICE, sender, sender_device, key, type_, [m.user_id for m in messages],
            [m.device_id for m in messages], [m.content for m in messages], now_ms, streams=streams,
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        return SentMessages((), None, None)  # another process stored the same transaction at the same moment
    stored = zip(row["positions"] or (), row["users"] or (), row["devices"] or (), strict=True)
    return SentMessages(list(stored), row["prior_writer"], row["prior_position"])


async def read_inbox(
    source: Source, user_id: UserId, device_id: str, since: Vector | None, now: Vector, limit: int
) -> tuple[list[ToDeviceMessage], bool]:
    """Delete what the device acknowledges by `since`, and return (the next messages in order of arrival, any left).

    since: of the token that the device itself showed; None: it acknowledges nothing. now: nothing beyond it is given.
    At most `limit` messages; any left: whether the inbox holds anything at all, also what was just returned.
    The deletion needs no fence: whoever does it, and however late, the device has these messages.
    """
    before = since or _NOTHING
    rows = await source.fetch(
        _READ if since is None else _ACKNOWLEDGE_AND_READ,
        user_id, device_id, *_columns(before), *_columns(now), limit,
    )  # fmt: skip
    found = sorted((row for row in rows if row[0] is not None), key=lambda row: row[0])
    messages = [ToDeviceMessage(position, by, kind, json) for position, by, kind, json in found]
    return messages, bool(rows)


def _columns(vector: Vector) -> tuple[int, int, Sequence[int], Sequence[int]]:
    return vector.known, vector.base, list(vector.above), list(vector.above.values())
