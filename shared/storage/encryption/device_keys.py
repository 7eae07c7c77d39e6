"""End-to-end keys of local devices: identity keys, one-time keys, fallback keys.

Stream `device_lists` tells when identity keys changed, `one_time_keys` when keys were uploaded or claimed. Statements
about one device's keys go one after another: they lock its row in `devices`, or the keys themselves.
Spec: client-server API, "End-to-End Encryption", "Key Distribution"; protocol notes, A6, B6.
"""

from collections.abc import Collection
from dataclasses import dataclass

from shared.core.identifiers import UserId
from shared.storage.encryption.device_lists import CHANGE_PART
from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.pool import Source

_CHANGE_COLUMNS = "INSERT INTO one_time_key_changes (writer, position, user_id, device_id, changed_ms)"

#: $2 user, $3 device, $4 identity keys, $5 those that must still be there (both NULL: none), $6 now;
#: one-time keys: $7 algorithms, $8 key ids, $9 hashes, $10 JSON; fallback keys: $11 algorithms, $12 key ids, $13 JSON.
#: $14: most one-time keys that may lie unclaimed. Nothing is written unless the
#: device is there, no key id that is known comes with another content, the limit holds, and the identity keys are as
#: expected. Uses the primary keys of devices, device_keys, one_time_keys and fallback_keys, and one_time_keys_to_claim.
UPLOAD_KEYS = fenced_statement(
    "upload_keys",
    {
        "device": "SELECT 1 FROM fence, devices WHERE user_id = $2 AND device_id = $3 FOR UPDATE OF devices",
        "given": "SELECT * FROM unnest($7::text[], $8::text[], $9::bytea[], $10::bytea[])"
        " AS g(algorithm, key_id, hash, json)",
        "clash": """
            SELECT g.algorithm, g.key_id FROM given g JOIN one_time_keys k USING (algorithm, key_id)
            WHERE k.user_id = $2 AND k.device_id = $3 AND k.hash <> g.hash LIMIT 1
        """,
        "crowded": """
            SELECT 1 FROM one_time_keys WHERE user_id = $2 AND device_id = $3 AND claimed_ms IS NULL
            HAVING cardinality($7::text[]) > 0 AND count(*) + cardinality($7::text[]) > $14
        """,
        "same": """
            SELECT 1 FROM device WHERE (SELECT json FROM device_keys WHERE user_id = $2 AND device_id = $3)
                IS NOT DISTINCT FROM $5::bytea
        """,
        "go": """
            SELECT 1 FROM same WHERE NOT EXISTS (SELECT FROM clash) AND NOT EXISTS (SELECT FROM crowded)
        """,
        "identity": """
            INSERT INTO device_keys AS t (user_id, device_id, json)
            SELECT $2, $3, $4 FROM fence, go WHERE $4::bytea IS NOT NULL
            ON CONFLICT (user_id, device_id) DO UPDATE SET json = excluded.json WHERE t.json = $5
            RETURNING 1
        """,
        "list_change": CHANGE_PART.format(user="$2", now="$6", source="identity"),
        "place": """
            SELECT nextval('stream_one_time_keys') AS position FROM go
            WHERE cardinality($7::text[]) + cardinality($11::text[]) > 0
        """,
        "one_time": """
            INSERT INTO one_time_keys (user_id, device_id, algorithm, key_id, uploaded, hash, json)
            SELECT $2, $3, g.algorithm, g.key_id, place.position, g.hash, g.json FROM fence, place, given g
            ON CONFLICT (user_id, device_id, algorithm, key_id) DO NOTHING
        """,
        "fallback": """
            INSERT INTO fallback_keys AS t (user_id, device_id, algorithm, key_id, json)
            SELECT $2, $3, g.algorithm, g.key_id, g.json
            FROM fence, place, unnest($11::text[], $12::text[], $13::bytea[]) AS g(algorithm, key_id, json)
            ON CONFLICT (user_id, device_id, algorithm) DO UPDATE
                SET key_id = excluded.key_id, json = excluded.json, used = false
                WHERE t.key_id <> excluded.key_id OR t.json <> excluded.json
        """,
        "key_change": f"{_CHANGE_COLUMNS} SELECT $1, place.position, $2, $3, $6 FROM fence, place RETURNING position",
    },
    """(SELECT count(*) FROM device) AS devices, (SELECT count(*) FROM same) AS same,
       (SELECT key_id FROM clash) AS clash, (SELECT count(*) FROM crowded) AS crowded,
       (SELECT position FROM list_change) AS list_position, (SELECT position FROM key_change) AS key_position""",
)

#: $2 user, $3 device, $4 new identity keys, $5 those that must still be there, $6 now. The keys that belong to the old
#: ones go, since nobody could use them. Nothing is written unless the identity keys are as expected. Uses the primary
#: keys of devices, device_keys, one_time_keys and fallback_keys.
REPLACE_IDENTITY_KEYS = fenced_statement(
    "replace_identity_keys",
    {
        "device": "SELECT 1 FROM fence, devices WHERE user_id = $2 AND device_id = $3 FOR UPDATE OF devices",
        "identity": """
            UPDATE device_keys SET json = $4 FROM fence, device
            WHERE user_id = $2 AND device_id = $3 AND json = $5 RETURNING 1
        """,
        "one_time": "DELETE FROM one_time_keys USING fence, identity WHERE user_id = $2 AND device_id = $3",
        "fallback": "DELETE FROM fallback_keys USING fence, identity WHERE user_id = $2 AND device_id = $3",
        "list_change": CHANGE_PART.format(user="$2", now="$6", source="identity"),
        "key_change": f"""
            {_CHANGE_COLUMNS}
            SELECT $1, nextval('stream_one_time_keys'), $2, $3, $6 FROM fence, identity RETURNING position
        """,
    },
    "(SELECT position FROM list_change) AS list_position, (SELECT position FROM key_change) AS key_position",
)

#: $2 users, $3 devices, $4 algorithms: arrays of one length, no triple twice; $5 now. Each is given a
#: one-time key, in the order of upload, else the fallback key. Who claims at the same moment passes over a key that is
#: being taken. Uses one_time_keys_to_claim and the primary keys of one_time_keys and fallback_keys.
CLAIM_KEYS = fenced_statement(
    "claim_keys",
    {
        "wanted": "SELECT * FROM unnest($2::text[], $3::text[], $4::text[]) AS w(user_id, device_id, algorithm)",
        "picked": """
            SELECT k.* FROM fence, wanted w CROSS JOIN LATERAL (
                SELECT o.user_id, o.device_id, o.algorithm, o.key_id, o.json FROM one_time_keys o
                WHERE o.user_id = w.user_id AND o.device_id = w.device_id AND o.algorithm = w.algorithm
                  AND o.claimed_ms IS NULL
                ORDER BY o.uploaded LIMIT 1 FOR UPDATE SKIP LOCKED
            ) AS k
        """,
        "taken": """
            UPDATE one_time_keys o SET claimed_ms = $5, json = NULL FROM fence, picked p
            WHERE o.user_id = p.user_id AND o.device_id = p.device_id AND o.algorithm = p.algorithm
              AND o.key_id = p.key_id
            RETURNING o.user_id, o.device_id, o.algorithm, o.key_id
        """,
        "spare": """
            SELECT f.user_id, f.device_id, f.algorithm, f.key_id, f.json, f.used
            FROM wanted JOIN fallback_keys f USING (user_id, device_id, algorithm)
            WHERE NOT EXISTS (SELECT FROM picked p WHERE p.user_id = f.user_id AND p.device_id = f.device_id
                                                     AND p.algorithm = f.algorithm)
        """,
        "marked": """
            UPDATE fallback_keys f SET used = true FROM fence, spare s
            WHERE f.user_id = s.user_id AND f.device_id = s.device_id AND f.algorithm = s.algorithm
              AND f.key_id = s.key_id AND NOT f.used
            RETURNING f.user_id, f.device_id
        """,
        "given": """
            SELECT p.user_id, p.device_id, p.algorithm, p.key_id, p.json
            FROM picked p JOIN taken USING (user_id, device_id, algorithm, key_id)
            UNION ALL SELECT user_id, device_id, algorithm, key_id, json FROM spare
        """,
        "key_change": f"""
            {_CHANGE_COLUMNS}
            SELECT $1, nextval('stream_one_time_keys'), c.user_id, c.device_id, $5
            FROM (SELECT user_id, device_id FROM fence, taken UNION SELECT user_id, device_id FROM marked
                  ORDER BY 1, 2) AS c
            RETURNING position, user_id, device_id
        """,
    },
    """(SELECT array_agg(user_id) FROM given) AS users, (SELECT array_agg(device_id) FROM given) AS devices,
       (SELECT array_agg(algorithm) FROM given) AS algorithms, (SELECT array_agg(key_id) FROM given) AS key_ids,
       (SELECT array_agg(json) FROM given) AS jsons,
       (SELECT array_agg(position ORDER BY position) FROM key_change) AS positions,
       (SELECT array_agg(user_id ORDER BY position) FROM key_change) AS changed_users,
       (SELECT array_agg(device_id ORDER BY position) FROM key_change) AS changed_devices""",
)

#: Uses the primary key of device_keys.
_IDENTITY = "SELECT json FROM device_keys WHERE user_id = $1 AND device_id = $2"
#: Uses the primary keys of device_keys and devices.
_QUERY = """
    SELECT k.user_id, k.device_id, k.json, d.display_name
    FROM device_keys k LEFT JOIN devices d USING (user_id, device_id) WHERE k.user_id = ANY($1::text[])
"""
#: Uses the primary key of users.
_EXISTING = "SELECT user_id FROM users WHERE user_id = ANY($1::text[])"
#: Uses one_time_keys_to_claim, the primary key of fallback_keys, one_time_key_changes_by_device.
_COUNTS = """
    SELECT algorithm, count(*) AS n, NULL::boolean AS used, NULL::bigint AS writer, NULL::bigint AS position
    FROM one_time_keys WHERE user_id = $1 AND device_id = $2 AND claimed_ms IS NULL GROUP BY algorithm
    UNION ALL
    SELECT algorithm, NULL, used, NULL, NULL FROM fallback_keys WHERE user_id = $1 AND device_id = $2
    UNION ALL
    (SELECT NULL, NULL, NULL, writer, position FROM one_time_key_changes
     WHERE user_id = $1 AND device_id = $2 ORDER BY position DESC LIMIT 1)
"""


@dataclass(frozen=True, slots=True)
class StoredDeviceKeys:
    """json: as uploaded; display_name: of the device."""

    user_id: UserId
    device_id: str
    json: bytes
    display_name: str | None


@dataclass(frozen=True, slots=True)
class KeyCounts:
    """one_time: by algorithm, how many lie unclaimed; unused_fallback: algorithms of fallback keys that nobody got.

    (writer, position): of the last change in the stream `one_time_keys`, (0, 0) when none is remembered.
    """

    one_time: dict[str, int]
    unused_fallback: list[str]
    writer: int
    position: int


async def get_identity_keys(source: Source, user_id: UserId, device_id: str) -> bytes | None:
    """Return the identity keys of a device as it uploaded them."""
    json: bytes | None = await source.fetchval(_IDENTITY, user_id, device_id)
    return json


async def get_device_keys(source: Source, user_ids: Collection[UserId]) -> list[StoredDeviceKeys]:
    """Return the identity keys of all devices of these users. source: the primary."""
    return [
        StoredDeviceKeys(user_id, device_id, json, name)
        for user_id, device_id, json, name in await source.fetch(_QUERY, list(user_ids))
    ]


async def get_existing_users(source: Source, user_ids: Collection[UserId]) -> set[UserId]:
    """Return those who have an account here."""
    return {row[0] for row in await source.fetch(_EXISTING, list(user_ids))}


async def get_key_counts(source: Source, user_id: UserId, device_id: str) -> KeyCounts:
    """Return what a device has left for others to claim."""
    # Deployed clients upload keys only if they see this count, so it is 0 without keys.
    counts = KeyCounts({"signed_curve25519": 0}, [], 0, 0)
    for algorithm, number, used, writer, position in await source.fetch(_COUNTS, user_id, device_id):
        if number is not None:
            counts.one_time[algorithm] = number
        elif used is False:
            counts.unused_fallback.append(algorithm)
        elif used is None:
            counts = KeyCounts(counts.one_time, counts.unused_fallback, writer, position)
    counts.unused_fallback.sort()
    return counts
