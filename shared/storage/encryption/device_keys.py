"""End-to-end keys of local devices: identity keys, one-time keys, fallback keys.

The stream `device_lists` has the changes of identity keys, `one_time_keys` the uploads and claims of the other keys.
Statements about one device's keys run one after another: they lock its row in `devices`, or the keys themselves.
Spec: client-server API, "End-to-End Encryption", "Key Distribution"; protocol notes, A6, B6.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shared.core.identifiers import UserId
from shared.storage.encryption.device_lists import CHANGE_PART
from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.pool import Source
from shared.storage.engine.statements import parameters

_CHANGE_COLUMNS = "INSERT INTO one_time_key_changes (writer, position, user_id, device_id, changed_ms)"

_OF_DEVICE = "user_id = :user_id AND device_id = :device_id"


class KeyToUpload(NamedTuple):
    algorithm: str
    key_id: str
    hash: bytes
    json: bytes


class KeyToClaim(NamedTuple):
    user_id: UserId
    device_id: str
    algorithm: str


@parameters
class UploadKeys:
    """Keys that a device uploads.

    identity: its identity keys, as JSON. None: it uploads none.
    known_identity: the identity keys that must still be stored. None: none.
    max_one_time: the most one-time keys that may lie unclaimed.
    max_one_time_bytes: the most bytes that these may take.
    max_stored: the most one-time keys, with those that were claimed and whose ids are still kept.
    max_algorithms: the most algorithms of fallback keys.
    """

    user_id: UserId
    device_id: str
    identity: bytes | None
    known_identity: bytes | None
    now_ms: int
    one_time: Sequence[KeyToUpload]
    fallback: Sequence[KeyToUpload]
    max_one_time: int
    max_one_time_bytes: int
    max_stored: int
    max_algorithms: int


@parameters
class ReplaceIdentityKeys:
    """known_identity: the identity keys that must still be stored."""

    user_id: UserId
    device_id: str
    identity: bytes
    known_identity: bytes
    now_ms: int


@parameters
class ClaimKeys:
    """keys: no triple twice."""

    keys: Sequence[KeyToClaim]
    now_ms: int


#: Writes nothing unless the device exists, no known key id comes with another content, the limit holds, and the
#: identity keys are as expected. Uses the primary keys of devices, device_keys, one_time_keys and fallback_keys, and
#: one_time_keys_to_claim.
UPLOAD_KEYS = fenced_statement(
    "upload_keys",
    UploadKeys,
    {
        # The deletion of a device must see these keys, or be repeated: `accounts/session_statements.py`.
        "turn": """
            UPDATE users SET session_turn = session_turn + 1 FROM fence WHERE user_id = :user_id RETURNING 1
        """,
        "device": f"SELECT 1 FROM fence, turn, devices WHERE {_OF_DEVICE} FOR UPDATE OF devices",
        "given": "SELECT * FROM :one_time AS g(:one_time.columns)",
        "fallbacks": "SELECT * FROM :fallback AS f(:fallback.columns)",
        "clash": """
            SELECT g.algorithm, g.key_id FROM given g JOIN one_time_keys k USING (algorithm, key_id)
            WHERE k.user_id = :user_id AND k.device_id = :device_id AND k.hash <> g.hash LIMIT 1
        """,
        "crowded": f"""
            SELECT 1 FROM one_time_keys WHERE {_OF_DEVICE} AND claimed_ms IS NULL
            HAVING (SELECT count(*) FROM given) > 0 AND count(*) + (SELECT count(*) FROM given) > :max_one_time
        """,
        "heavy": f"""
            SELECT 1 FROM one_time_keys WHERE {_OF_DEVICE} AND EXISTS (SELECT FROM given)
            HAVING count(*) > :max_stored OR coalesce(sum(octet_length(json)), 0)
                + (SELECT coalesce(sum(octet_length(json)), 0) FROM given) > :max_one_time_bytes::bigint
        """,
        "varied": f"""
            SELECT 1 FROM (SELECT algorithm FROM fallback_keys WHERE {_OF_DEVICE}
                           UNION SELECT algorithm FROM fallbacks) AS a
            WHERE EXISTS (SELECT FROM fallbacks) HAVING count(*) > :max_algorithms
        """,
        "same": f"""
            SELECT 1 FROM device WHERE (SELECT json FROM device_keys WHERE {_OF_DEVICE})
                IS NOT DISTINCT FROM :known_identity::bytea
        """,
        "go": """
            SELECT 1 FROM same WHERE NOT EXISTS (SELECT FROM clash) AND NOT EXISTS (SELECT FROM crowded)
              AND NOT EXISTS (SELECT FROM heavy) AND NOT EXISTS (SELECT FROM varied)
        """,
        "identity": """
            INSERT INTO device_keys AS t (user_id, device_id, json)
            SELECT :user_id, :device_id, :identity FROM fence, go WHERE :identity::bytea IS NOT NULL
            ON CONFLICT (user_id, device_id) DO UPDATE SET json = excluded.json WHERE t.json = :known_identity
            RETURNING 1
        """,
        "list_change": CHANGE_PART.format(source="identity"),
        "place": """
            SELECT nextval('stream_one_time_keys') AS position FROM go
            WHERE EXISTS (SELECT FROM given) OR EXISTS (SELECT FROM fallbacks)
        """,
        "one_time": """
            INSERT INTO one_time_keys (user_id, device_id, algorithm, key_id, uploaded, hash, json)
            SELECT :user_id, :device_id, g.algorithm, g.key_id, place.position, g.hash, g.json
            FROM fence, place, given g
            ON CONFLICT (user_id, device_id, algorithm, key_id) DO NOTHING
        """,
        "fallback": """
            INSERT INTO fallback_keys AS t (user_id, device_id, algorithm, key_id, json)
            SELECT :user_id, :device_id, f.algorithm, f.key_id, f.json FROM fence, place, fallbacks f
            ON CONFLICT (user_id, device_id, algorithm) DO UPDATE
                SET key_id = excluded.key_id, json = excluded.json, used = false
                WHERE t.key_id <> excluded.key_id OR t.json <> excluded.json
        """,
        "key_change": f"""
            {_CHANGE_COLUMNS}
            SELECT :lease, place.position, :user_id, :device_id, :now_ms FROM fence, place RETURNING position
        """,
    },
    """(SELECT count(*) FROM device) AS devices, (SELECT count(*) FROM same) AS same,
       (SELECT key_id FROM clash) AS clash, (SELECT count(*) FROM crowded) AS crowded,
       (SELECT count(*) FROM heavy) AS heavy, (SELECT count(*) FROM varied) AS varied,
       (SELECT position FROM list_change) AS list_position, (SELECT position FROM key_change) AS key_position""",
)

#: Deletes the keys that belong to the old identity keys, which are useless now. Writes nothing unless the identity
#: keys are as expected. Uses the primary keys of devices, device_keys, one_time_keys and fallback_keys.
REPLACE_IDENTITY_KEYS = fenced_statement(
    "replace_identity_keys",
    ReplaceIdentityKeys,
    {
        "device": f"SELECT 1 FROM fence, devices WHERE {_OF_DEVICE} FOR UPDATE OF devices",
        "identity": f"""
            UPDATE device_keys SET json = :identity FROM fence, device
            WHERE {_OF_DEVICE} AND json = :known_identity RETURNING 1
        """,
        "one_time": f"DELETE FROM one_time_keys USING fence, identity WHERE {_OF_DEVICE}",
        "fallback": f"DELETE FROM fallback_keys USING fence, identity WHERE {_OF_DEVICE}",
        "list_change": CHANGE_PART.format(source="identity"),
        "key_change": f"""
            {_CHANGE_COLUMNS}
            SELECT :lease, nextval('stream_one_time_keys'), :user_id, :device_id, :now_ms FROM fence, identity
            RETURNING position
        """,
    },
    "(SELECT position FROM list_change) AS list_position, (SELECT position FROM key_change) AS key_position",
)

#: Gives a one-time key for each triple, in the order of upload, else the fallback key. Claims at the same moment skip
#: keys that are being taken. Uses one_time_keys_to_claim and the primary keys of one_time_keys and fallback_keys.
CLAIM_KEYS = fenced_statement(
    "claim_keys",
    ClaimKeys,
    {
        "wanted": "SELECT * FROM :keys AS w(:keys.columns)",
        "picked": """
            SELECT k.* FROM fence, wanted w CROSS JOIN LATERAL (
                SELECT o.user_id, o.device_id, o.algorithm, o.key_id, o.json FROM one_time_keys o
                WHERE o.user_id = w.user_id AND o.device_id = w.device_id AND o.algorithm = w.algorithm
                  AND o.claimed_ms IS NULL
                ORDER BY o.uploaded LIMIT 1 FOR UPDATE SKIP LOCKED
            ) AS k
        """,
        "taken": """
            UPDATE one_time_keys o SET claimed_ms = :now_ms, json = NULL FROM fence, picked p
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
            SELECT :lease, nextval('stream_one_time_keys'), c.user_id, c.device_id, :now_ms
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
    """The identity keys of a device. json: as uploaded. display_name: of the device."""

    user_id: UserId
    device_id: str
    json: bytes
    display_name: str | None


@dataclass(frozen=True, slots=True)
class KeyCounts:
    """The keys of a device that others can claim.

    one_time: algorithm -> number of unclaimed keys.
    unused_fallback: algorithms of unclaimed fallback keys.
    writer, position: of the last change in the stream `one_time_keys`. 0: none is stored any more.
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
    """Return those of the users who have an account here."""
    return {row[0] for row in await source.fetch(_EXISTING, list(user_ids))}


async def get_key_counts(source: Source, user_id: UserId, device_id: str) -> KeyCounts:
    """Return the numbers of a device's unclaimed keys."""
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
