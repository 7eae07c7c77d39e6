"""The reader and writer of push rules. Only the owner of the user's slot writes."""

from collections.abc import Callable
from typing import Any

from replication.calls.applied_rows import RoomOwners
from replication.streams import PUSH_RULES
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter
from shared.core.errors import Unavailable
from shared.core.identifiers import RoomId, UserId
from shared.core.push_rules import (
    RuleChanges,
    RuleSwitches,
    affected_rooms,
    changes_from_json,
    changes_to_json,
    full_ruleset,
)
from shared.core.push_rules.editing import copy_room_rules
from shared.core.rows import PushRulesRow
from shared.runtime.keyed_locks import KeyedLocks
from shared.storage.engine.pool import Database, transient_as_unavailable
from shared.storage.push.rules import SET_PUSH_RULES, PushRulesRecord, SetPushRules, get_push_rules

_ATTEMPTS = 5  # with the lock held, only another process can be in the way


class PushRulesWriter:
    def __init__(
        self,
        database: Database,
        writer: FencedWriter,
        announcer: Announcer,
        room_owners: RoomOwners,
        switches: RuleSwitches,
    ) -> None:
        self.switches = switches
        self._database = database
        self._writer = writer
        self._announcer = announcer
        self._room_owners = room_owners
        self._locks = KeyedLocks()

    async def get(self, user_id: UserId) -> RuleChanges:
        """Return the user's changes to the default rules."""
        return changes_from_json((await get_push_rules(self._database, user_id)).rules)

    async def get_ruleset(self, user_id: UserId) -> dict[str, Any]:
        """Return all rules of the user, as GET /pushrules/ answers them."""
        return full_ruleset(await self.get(user_id), user_id, self.switches)

    async def change(self, user_id: UserId, edit: Callable[[RuleChanges], RuleChanges]) -> None:
        """Replace the user's changes by the result of `edit`, and retry if they are changed meanwhile.

        Returns once the owners of rooms use the new rules. If the result is the same, nothing is written or announced.
        Raises the errors of `edit`, and Unavailable after five attempts.
        """
        position = await self._change(user_id, edit)
        if position is not None:
            await self._room_owners.wait_until_applied(PUSH_RULES, self._writer.lease, position)

    async def _change(self, user_id: UserId, edit: Callable[[RuleChanges], RuleChanges]) -> int | None:
        """Store a change. Return its position; None if the rules stay the same."""
        async with self._locks.hold(user_id):
            for _ in range(_ATTEMPTS):
                record = await get_push_rules(self._database, user_id)
                changes = edit(changes_from_json(record.rules))
                json = changes_to_json(changes)
                if json == record.rules:
                    return None
                position = await self._store(user_id, record, changes, json)
                if position is not None:
                    return position
        raise Unavailable("Other processes keep changing these push rules")

    async def copy_room_rules(self, user_id: UserId, old_room_id: RoomId, new_room_id: RoomId) -> None:
        """Copy a user's rules about a room to the room that replaces it. A repeated call changes nothing."""
        await self.change(user_id, lambda changes: copy_room_rules(changes, old_room_id, new_room_id))

    async def _store(self, user_id: UserId, record: PushRulesRecord, changes: RuleChanges, json: bytes) -> int | None:
        """Write and announce. Return the position; None if another change came first."""
        everywhere, rooms = affected_rooms(changes, self.switches)
        changed = SetPushRules(
            user_id=user_id, rules=json, everywhere=everywhere, rooms=sorted(rooms), expected=record.position
        )
        with transient_as_unavailable():
            row = await self._writer.write(SET_PUSH_RULES, changed, streams=(PUSH_RULES.name,))
        position: int | None = row["position"]
        if position is None:
            return None
        ignored = tuple(row["ignored"])
        self._announcer.announce(
            PUSH_RULES,
            [PushRulesRow(position=position, writer=self._writer.lease, user_id=user_id, rules=json, ignored=ignored)],
        )
        return position
