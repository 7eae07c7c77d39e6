"""Account data, global and of the rooms in scope. Spec: MSC3959."""

from collections.abc import Mapping
from typing import Any

from shared.core.filters import EventFilter
from workers.synchrotron.classic.sync_answer import global_account_data
from workers.synchrotron.sections.joined_section import account_data_events
from workers.synchrotron.sliding.extensions.extension import NOTHING, Asked, Told

_ALL = EventFilter()


class AccountData:
    name = "account_data"
    per_room = True

    def check(self, parameters: Mapping[str, Any]) -> None:
        """It has no parameters of its own."""

    async def tell(self, asked: Asked, parameters: None) -> Told:
        body: dict[str, Any] = {}
        if told := global_account_data(asked.user, asked.span, _ALL):
            body["global"] = told
        rooms = {}
        for room in asked.rooms:
            if told := account_data_events(asked.user, room.room_id, asked.span, _ALL, everything=not room.told):
                rooms[room.room_id] = told
        if rooms:
            body["rooms"] = rooms
        return Told(body, empty=False) if body else NOTHING
