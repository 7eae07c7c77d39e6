"""Slots: the lease that owns each of the 1024 parts of rooms, users and destinations. Architecture page, section 3."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.pool import Database
from shared.storage.engine.statements import Integer, columns, parameters

_SLOTS = """
    SELECT s.kind, s.slot, s.owner, s.epoch, s.next_owner, s.pinned,
           (SELECT value FROM counters WHERE name = 'slots_version') AS v
    FROM slots s ORDER BY s.kind, s.slot
"""
_VERSION = "SELECT value FROM counters WHERE name = 'slots_version'"
_ADDRESSES = "SELECT lease, address FROM leases WHERE NOT revoked"

#: A row if this process leads. Parts that only the leader may run take their rows from here too.
_LEADER = "SELECT 1 FROM fence JOIN duties ON duty = 'main' AND holder = :lease"


@columns
class SlotOwners:
    """Slots, and for each the lease of an owner."""

    slot: list[Integer]
    owner: list[int]

    @classmethod
    def of(cls, owners: Mapping[int, int]) -> Self:
        """Return the columns of a mapping from slots to leases."""
        return cls(slot=list(owners), owner=list(owners.values()))


@columns
class SlotEpochs:
    """Slots, and the epoch of each as its owner knows it."""

    slot: list[Integer]
    epoch: list[int]


@columns
class SlotsOfKinds:
    kind: list[str]
    slot: list[Integer]


@parameters
class AssignSlots:
    kind: str
    owners: SlotOwners


@parameters
class NameNextOwners:
    kind: str
    next_owners: SlotOwners


@parameters
class WithdrawNextOwners:
    kind: str
    slots: list[int]


@parameters
class GiveSlotsAway:
    kind: str
    slots: SlotEpochs


@parameters
class PlaceSlot:
    """next_owner: its lease. A slot that it owns already is only pinned."""

    kind: str
    slot: int
    next_owner: int


@parameters
class UnpinSlots:
    slots: SlotsOfKinds


def _new_version_if(part: str) -> str:
    """Return the part that makes every process read the table again, if another part changed a row of it."""
    return f"""
        UPDATE counters SET value = value + 1 FROM fence
        WHERE name = 'slots_version' AND EXISTS (SELECT 1 FROM {part})
    """


#: The leader gives slots without an owner to living processes.
ASSIGN_SLOTS = fenced_statement(
    "assign_slots",
    AssignSlots,
    {
        "leader": _LEADER,
        "given": """
            UPDATE slots s SET owner = u.owner, epoch = s.epoch + 1, next_owner = NULL
            FROM fence, leader, :owners AS u(:owners.columns), leases l
            WHERE s.kind = :kind AND s.slot = u.slot AND s.owner IS NULL AND l.lease = u.owner AND NOT l.revoked
            RETURNING s.slot
        """,
        "version": _new_version_if("given"),
    },
    "(SELECT count(*) FROM leader) AS leads, (SELECT count(*) FROM given) AS given",
)

#: A planned move, step 1: the leader names the next owners.
NAME_NEXT_OWNERS = fenced_statement(
    "name_next_owners",
    NameNextOwners,
    {
        "leader": _LEADER,
        "named": """
            UPDATE slots s SET next_owner = u.owner
            FROM fence, leader, :next_owners AS u(:next_owners.columns), leases l
            WHERE s.kind = :kind AND s.slot = u.slot AND s.owner <> u.owner AND l.lease = u.owner AND NOT l.revoked
            RETURNING s.slot
        """,
        "version": _new_version_if("named"),
    },
    "(SELECT count(*) FROM named) AS named",
)

#: The leader takes its names back: the owner did not answer, or the next owner died.
WITHDRAW_NEXT_OWNERS = fenced_statement(
    "withdraw_next_owners",
    WithdrawNextOwners,
    {
        "leader": _LEADER,
        "withdrawn": """
            UPDATE slots SET next_owner = NULL FROM fence, leader
            WHERE kind = :kind AND slot = ANY (:slots::int[]) AND next_owner IS NOT NULL RETURNING slot
        """,
        "version": _new_version_if("withdrawn"),
    },
)

#: Step 3: the owner itself gives its slots to the next owners, if nothing changed meanwhile.
GIVE_SLOTS_AWAY = fenced_statement(
    "give_slots_away",
    GiveSlotsAway,
    {
        "given": """
            UPDATE slots s SET owner = s.next_owner, next_owner = NULL, epoch = s.epoch + 1
            FROM fence, :slots AS u(:slots.columns), leases l
            WHERE s.kind = :kind AND s.slot = u.slot AND s.owner = :lease AND s.epoch = u.epoch
              AND l.lease = s.next_owner AND NOT l.revoked
            RETURNING s.slot
        """,
        "version": _new_version_if("given"),
    },
    "(SELECT array_agg(slot) FROM given) AS given",
)

#: An operator names the next owner of a slot and pins it there. A slot that is being moved is left alone.
PLACE_SLOT = fenced_statement(
    "place_slot",
    PlaceSlot,
    {
        "placed": """
            UPDATE slots s SET next_owner = nullif(:next_owner::bigint, s.owner), pinned = true FROM fence, leases l
            WHERE s.kind = :kind AND s.slot = :slot::int AND s.owner IS NOT NULL AND s.next_owner IS NULL
              AND l.lease = :next_owner AND NOT l.revoked
            RETURNING s.slot
        """,
        "version": _new_version_if("placed"),
    },
    "(SELECT count(*) FROM placed) AS placed",
)

#: Rebalancing may move these slots again.
UNPIN_SLOTS = fenced_statement(
    "unpin_slots",
    UnpinSlots,
    {
        "unpinned": """
            UPDATE slots s SET pinned = false FROM fence, :slots AS u(:slots.columns)
            WHERE s.kind = u.kind AND s.slot = u.slot AND s.pinned RETURNING s.slot
        """,
        "version": _new_version_if("unpinned"),
    },
    "(SELECT count(*) FROM unpinned) AS unpinned",
)


@dataclass(frozen=True, slots=True)
class SlotRow:
    """pinned: True if an operator placed it. Rebalancing leaves it where it is."""

    kind: str
    slot: int
    owner: int | None
    epoch: int
    next_owner: int | None
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class SlotSnapshot:
    """version: of the slot table, as the heartbeat reports it. addresses: of every lease that holds."""

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
