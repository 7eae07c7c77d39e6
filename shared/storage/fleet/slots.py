"""Slots: which lease owns each of the 1024 parts of rooms, users and destinations. Architecture page, section 3."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.pool import Database

_SLOTS = """
    SELECT s.kind, s.slot, s.owner, s.epoch, s.next_owner, s.pinned,
           (SELECT value FROM counters WHERE name = 'slots_version') AS v
    FROM slots s ORDER BY s.kind, s.slot
"""
_VERSION = "SELECT value FROM counters WHERE name = 'slots_version'"
_ADDRESSES = "SELECT lease, address FROM leases WHERE NOT revoked"

#: Whether this process leads: what only the leader may do takes its rows from here too.
_LEADER = "SELECT 1 FROM fence JOIN duties ON duty = 'main' AND holder = $1"


def _new_version_if(part: str) -> str:
    """The part that tells everybody to read the table again, if another part changed a row of it."""
    return f"""
        UPDATE counters SET value = value + 1 FROM fence
        WHERE name = 'slots_version' AND EXISTS (SELECT 1 FROM {part})
    """


#: The leader gives slots that nobody owns to living processes. $2 kind, $3 slots, $4 owners (arrays of one length).
ASSIGN_SLOTS = fenced_statement(
    "assign_slots",
    {
        "leader": _LEADER,
        "given": """
            UPDATE slots s SET owner = u.owner, epoch = s.epoch + 1, next_owner = NULL
            FROM fence, leader, unnest($3::int[], $4::bigint[]) AS u(slot, owner), leases l
            WHERE s.kind = $2 AND s.slot = u.slot AND s.owner IS NULL AND l.lease = u.owner AND NOT l.revoked
            RETURNING s.slot
        """,
        "version": _new_version_if("given"),
    },
    "(SELECT count(*) FROM leader) AS leads, (SELECT count(*) FROM given) AS given",
)

#: A planned move, step 1: the leader names the next owners. $2 kind, $3 slots, $4 next owners.
NAME_NEXT_OWNERS = fenced_statement(
    "name_next_owners",
    {
        "leader": _LEADER,
        "named": """
            UPDATE slots s SET next_owner = u.next_owner
            FROM fence, leader, unnest($3::int[], $4::bigint[]) AS u(slot, next_owner), leases l
            WHERE s.kind = $2 AND s.slot = u.slot AND s.owner <> u.next_owner AND l.lease = u.next_owner
              AND NOT l.revoked
            RETURNING s.slot
        """,
        "version": _new_version_if("named"),
    },
    "(SELECT count(*) FROM named) AS named",
)

#: The leader takes back what it named: the owner did not answer, or the next owner died. $2 kind, $3 slots.
WITHDRAW_NEXT_OWNERS = fenced_statement(
    "withdraw_next_owners",
    {
        "leader": _LEADER,
        "withdrawn": """
            UPDATE slots SET next_owner = NULL FROM fence, leader
            WHERE kind = $2 AND slot = ANY ($3::int[]) AND next_owner IS NOT NULL RETURNING slot
        """,
        "version": _new_version_if("withdrawn"),
    },
)

#: Step 3: the owner itself gives its slots to the next owners, if nothing changed meanwhile.
#: $2 kind, $3 slots, $4 their epochs as the owner knows them.
GIVE_SLOTS_AWAY = fenced_statement(
    "give_slots_away",
    {
        "given": """
            UPDATE slots s SET owner = s.next_owner, next_owner = NULL, epoch = s.epoch + 1
            FROM fence, unnest($3::int[], $4::bigint[]) AS u(slot, epoch), leases l
            WHERE s.kind = $2 AND s.slot = u.slot AND s.owner = $1 AND s.epoch = u.epoch AND l.lease = s.next_owner
              AND NOT l.revoked
            RETURNING s.slot
        """,
        "version": _new_version_if("given"),
    },
    "(SELECT array_agg(slot) FROM given) AS given",
)

#: An operator names the next owner of a slot and pins it there. $2 kind, $3 slot, $4 next owner (who owns it already
#: is only pinned). A move that is under way is not disturbed: nothing is placed then.
PLACE_SLOT = fenced_statement(
    "place_slot",
    {
        "placed": """
            UPDATE slots s SET next_owner = nullif($4::bigint, s.owner), pinned = true FROM fence, leases l
            WHERE s.kind = $2 AND s.slot = $3::int AND s.owner IS NOT NULL AND s.next_owner IS NULL AND l.lease = $4
              AND NOT l.revoked
            RETURNING s.slot
        """,
        "version": _new_version_if("placed"),
    },
    "(SELECT count(*) FROM placed) AS placed",
)

#: Evening the load counts these slots again. $2 kinds, $3 slots (arrays of one length).
UNPIN_SLOTS = fenced_statement(
    "unpin_slots",
    {
        "unpinned": """
            UPDATE slots s SET pinned = false FROM fence, unnest($2::text[], $3::int[]) AS u(kind, slot)
            WHERE s.kind = u.kind AND s.slot = u.slot AND s.pinned RETURNING s.slot
        """,
        "version": _new_version_if("unpinned"),
    },
    "(SELECT count(*) FROM unpinned) AS unpinned",
)


@dataclass(frozen=True, slots=True)
class SlotRow:
    """pinned: an operator placed it; evening the load leaves it where it is."""

    kind: str
    slot: int
    owner: int | None
    epoch: int
    next_owner: int | None
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class SlotSnapshot:
    """version: of the slot table, as the heartbeat reports it; addresses: of every lease in force."""

    version: int
    slots: Sequence[SlotRow]
    addresses: dict[int, str]


async def get_slots_version(database: Database) -> int:
    """Return a number that changes with each change of the slot table."""
    version: int = await database.fetchval(_VERSION)
    return version


async def get_slots(database: Database) -> SlotSnapshot:
    """Read the slot table and the addresses of all processes in one snapshot."""
    async with database.snapshot() as conn:
        rows = await conn.fetch(_SLOTS)
        addresses = {row["lease"]: row["address"] for row in await conn.fetch(_ADDRESSES)}
    slots = [SlotRow(r["kind"], r["slot"], r["owner"], r["epoch"], r["next_owner"], r["pinned"]) for r in rows]
    return SlotSnapshot(rows[0]["v"] if rows else 0, slots, addresses)
