"""The facts of a room in summaries, directories and spaces, for a user who looks for rooms.

Words of erased senders are for those only who were in the room before the erasure.
"""

from collections.abc import Collection
from dataclasses import replace

from shared.core.identifiers import RoomId, UserId
from shared.core.room_summary import Erasure, RoomFacts, SpaceChild
from shared.core.room_versions import get_room_version
from shared.core.visibility import ShownForm, shown_form
from shared.rooms.state_history import history, joined_by
from shared.rooms.timeline_event import MEMBER
from shared.rooms.viewpoint import value_before
from shared.storage.engine.pool import Database
from shared.storage.rooms import public_facts
from shared.storage.rooms.state import KeyChange, get_key_history


async def get_facts(database: Database, room_ids: Collection[RoomId], reader: UserId | None) -> dict[RoomId, RoomFacts]:
    """Return the facts of those of the rooms that exist here, by id. reader: None: a user without an account."""
    facts = await public_facts.get_facts(database, room_ids)
    return {room_id: await _for_reader(database, each, reader) for room_id, each in facts.items()}


async def get_facts_by_nid(
    database: Database, room_nids: Collection[int], reader: UserId | None
) -> dict[RoomId, RoomFacts]:
    """Do the same for rooms given by number."""
    facts = await public_facts.get_facts_by_nid(database, room_nids)
    return {room_id: await _for_reader(database, each, reader) for room_id, each in facts.items()}


async def get_space_children(database: Database, facts: RoomFacts, reader: UserId) -> list[SpaceChild]:
    """Return the room's m.space.child events, valid or not, without those that the reader gets in redacted form."""
    found = await public_facts.get_space_children(database, facts)
    if all(erasure is None for _, erasure in found):
        return [child for child, _ in found]
    own = await get_key_history(database, facts.room_nid, MEMBER, reader)
    return [child for child, erasure in found if erasure is None or _is_whole(facts, own, erasure)]


async def _for_reader(database: Database, facts: RoomFacts, reader: UserId | None) -> RoomFacts:
    if not facts.withheld or reader is None:
        return facts
    own = await get_key_history(database, facts.room_nid, MEMBER, reader)
    whole = {kind: each.content for kind, each in facts.withheld.items() if _is_whole(facts, own, each.erasure)}
    return replace(facts, contents={**facts.contents, **whole})


def _is_whole(facts: RoomFacts, own: Collection[KeyChange], erasure: Erasure) -> bool:
    """Return True if the reader was in the room with the event. own: the values of their membership."""
    changes = list(own)
    form = shown_form(
        "world_readable",  # the reader may find the room
        value_before(history(changes, "membership"), erasure.ordinal),
        False,
        sender_erased=True,
        joined_before_erasure=joined_by(
            get_room_version(facts.room_version), changes, erasure.ordinal, erasure.erased_ms
        ),
    )
    return form is ShownForm.WHOLE
