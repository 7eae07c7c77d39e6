"""The one way in which a user's push rules are read and written here. Only the owner of the user's slot writes."""

from collections.abc import Callable
from typing import Any

from replication.streams import PUSH_RULES
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter
from shared.core.errors import Unavailable
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
from shared.storage.engine.parameters import unescape
from shared.storage.engine.pool import Database, passing_as_unavailable
from shared.storage.push.rules import SET_PUSH_RULES, PushRulesRecord, as_column, get_push_rules

_ATTEMPTS = 5


class PushRulesWriter:
    def __init__(self, database: Database, writer: FencedWriter, announcer: Announcer, switches: RuleSwitches) -> None:
        self.switches = switches
        self._database = database
        self._writer = writer
        self._announcer = announcer

    async def get(self, user_id: str) -> RuleChanges:
        """Return what the user changed."""
        return changes_from_json((await get_push_rules(self._database, user_id)).rules)

    async def get_ruleset(self, user_id: str) -> dict[str, Any]:
        """Return all rules of the user, as GET /pushrules/ answers them."""
        return full_ruleset(await self.get(user_id), user_id, self.switches)

    async def change(self, user_id: str, edit: Callable[[RuleChanges], RuleChanges]) -> None:
        """Replace what the user changed by what `edit` makes of it; of what it is by then, should others change it.

        Nothing is written, and nobody told, when that is the same. Raises what `edit` does, and Unavailable.
        """
        for _ in range(_ATTEMPTS):
            record = await get_push_rules(self._database, user_id)
            changes = edit(changes_from_json(record.rules))
            json = changes_to_json(changes)
            if json == record.rules or await self._store(user_id, record, changes, json):
                return
        raise Unavailable("The push rules were changed too often at the same time")

    async def copy_room_rules(self, user_id: str, old_room_id: str, new_room_id: str) -> None:
        """Give a user's rules about a room to the one that replaces it. It may be asked again."""
        await self.change(user_id, lambda changes: copy_room_rules(changes, old_room_id, new_room_id))

    async def _store(self, user_id: str, record: PushRulesRecord, changes: RuleChanges, json: bytes) -> bool:
        """Write and announce. False: another change came first."""
        everywhere, rooms = affected_rooms(changes, self.switches)
        with passing_as_unavailable():
            row = await self._writer.write(
                SET_PUSH_RULES,
                user_id,
                json,
                everywhere,
                as_column(rooms),
                record.position,
                streams=(PUSH_RULES.name,),
            )
        if row["position"] is None:
            return False
        ignored = tuple(map(unescape, row["ignored"]))
        told = PushRulesRow(row["position"], self._writer.lease, user_id, json, ignored)
        self._announcer.announce(PUSH_RULES, [told])
        return True
