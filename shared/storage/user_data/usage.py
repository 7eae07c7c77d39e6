"""The storage that each user takes, as far as a quota limits it: running totals in rows that are written anyway.

Account data: the table `user_usage` has the total of a user's rows. The statement that writes a row adds the
difference. A user without a row there, from before the table or after a room of theirs was deleted, is counted when
they write next.
Filters and messages for devices have running totals in their own rows, see `account_data.py` and `to_device.py`.
"""

from dataclasses import dataclass

from shared.core.identifiers import UserId
from shared.storage.engine.pool import Source

#: What a row takes beside its texts, with its places in the indices.
ROW_BYTES = 200

_SIZE = f"{ROW_BYTES} + octet_length(room_id) + octet_length(type) + coalesce(octet_length(json), 0)"


def account_data_parts(room_id: str, type_: str) -> dict[str, str]:
    """Return the parts of a fenced statement that count a row of account data, for those that write it.

    room_id, type_: parameters or constants in SQL. `:json` and `:max_bytes` are parameters of the statement. Its part
    `stored` follows, which writes the row, takes rows from `fitting`, and returns a row if it wrote. COUNT_STORED is
    the part after that.
    Use the primary keys of account_data and user_usage. A row that does not grow always fits, so that users beyond a
    quota can still change and delete.
    """
    return {
        "size": f"""
            SELECT {ROW_BYTES} + octet_length({room_id}::text) + octet_length({type_}::text)
                       + coalesce(octet_length(:json::bytea), 0) AS after,
                   coalesce((SELECT {_SIZE} FROM account_data
                             WHERE user_id = :user_id AND room_id = {room_id} AND type = {type_}), 0) AS before
        """,
        "usage": f"""
            SELECT coalesce((SELECT account_data_bytes FROM user_usage WHERE user_id = :user_id),
                            (SELECT sum({_SIZE}) FROM account_data WHERE user_id = :user_id), 0)::bigint AS bytes
        """,
        "fitting": """
            SELECT 1 FROM fence, size, usage
            WHERE size.after <= size.before OR usage.bytes + size.after - size.before <= :max_bytes::bigint
        """,
    }


COUNT_STORED = """
    INSERT INTO user_usage AS u (user_id, account_data_bytes)
    SELECT :user_id, usage.bytes + size.after - size.before FROM fence, size, usage, stored
    ON CONFLICT (user_id) DO UPDATE SET account_data_bytes = u.account_data_bytes + (SELECT after - before FROM size)
"""


#: All use primary keys and indices that begin with the user, and read rows of this user only.
_USAGE = f"""
    SELECT coalesce((SELECT sum({_SIZE}) FROM account_data WHERE user_id = $1), 0)::bigint AS account_data_bytes,
           coalesce((SELECT sum({ROW_BYTES} + octet_length(json)) FROM filters WHERE user_id = $1), 0)::bigint
               AS filters_bytes,
           (SELECT count(*) FROM devices WHERE user_id = $1) AS devices,
           coalesce((SELECT max(bytes) FROM (
               SELECT sum(octet_length(json)) AS bytes FROM one_time_keys
               WHERE user_id = $1 AND json IS NOT NULL GROUP BY device_id) AS k), 0)::bigint AS device_keys_bytes,
           coalesce((SELECT max(bytes) FROM (
               SELECT sum({ROW_BYTES} + octet_length(type) + octet_length(content)) AS bytes FROM to_device_messages
               WHERE user_id = $1 GROUP BY device_id) AS m), 0)::bigint AS inbox_bytes,
           coalesce((SELECT sum(octet_length(content)) FROM delayed_events
                     WHERE user_id = $1 AND finalised_ms IS NULL), 0)::bigint AS delayed_events_bytes,
           (SELECT count(*) FROM room_aliases WHERE creator = $1) AS aliases
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The storage that one user takes. Each field has the quota of the same name (`shared/config/sections.py`).

    device_keys_bytes, inbox_bytes: of the device with the most.
    """

    account_data_bytes: int
    filters_bytes: int
    devices: int
    device_keys_bytes: int
    inbox_bytes: int
    delayed_events_bytes: int
    aliases: int


async def get_usage(source: Source, user_id: UserId) -> Usage:
    """Count what a user stores, from the rows themselves."""
    [row] = await source.fetch(_USAGE, user_id)
    return Usage(**row)
