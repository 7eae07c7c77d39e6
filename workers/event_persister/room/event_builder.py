"""Make events of drafts: named, signed, and checked against the rules of the room's version.

Building is synchronous: nothing can come between reading the state and taking a place in the room.
"""

import secrets
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from shared.core.event_auth import auth_types_for, check_auth, may_apply_redaction
from shared.core.events import Event, build_event
from shared.core.events.readers import PowerLevels
from shared.core.identifiers import EventId, RoomId
from shared.core.room_versions import RoomVersion
from shared.core.signing import SigningKey
from workers.event_persister.room.drafts import (
    NO_CHANGE,
    BuiltEvent,
    Draft,
    EntryChange,
    Head,
    Overlay,
    RedactionTarget,
    StateEntry,
    StateKey,
)
from workers.event_persister.room.event_forms import membership_in, stub
from workers.event_persister.room.room_state import RoomState


class Identity(NamedTuple):
    """The server's name and the key with which it signs events."""

    server_name: str
    signing_key: SigningKey


class EventBuilder:
    """Builds the events of one room upon its state."""

    def __init__(self, identity: Identity, version: RoomVersion, create: Event, state: RoomState) -> None:
        self._identity = identity
        self._version = version
        self._create = create
        self._room_id: RoomId = create.room_id
        self._state = state

    def missing(
        self,
        drafts: Iterable[Draft],
        overlay: Overlay = NO_CHANGE,
        named: Sequence[tuple[int, EventId]] | None = None,
    ) -> set[int]:
        """Return the events without which the drafts cannot be built, usually none.

        named: the extremities that they will name. None: all.
        """
        nids = self._state.missing_hashes(self._state.head.extremities if named is None else named)
        for draft in drafts:
            nids |= self._state.missing_of(self._auth_keys(draft), overlay)
        return nids

    def build_create(self, create_nid: int) -> BuiltEvent:
        """Return the create event, which comes first, with its place."""
        return self._placed(self._create, create_nid, [], StateEntry(create_nid, self._create.event_id, None))

    def build_next(self, draft: Draft, nid: int, now_ms: int) -> BuiltEvent:
        """Return the next event of the room with its place. nid: its number.

        Raises MatrixError (the event cannot be), AuthRuleViolation (it may not be).
        """
        event, auth, state = self.make_event(draft, now_ms, self._state.head.extremities, NO_CHANGE)
        check_auth(self._version, event, state, self._create, power_levels=self._state.power_levels)
        return self._placed(event, nid, auth, StateEntry(nid, event.event_id, membership_in(event)), draft)

    def make_event(
        self, draft: Draft, now_ms: int, extremities: Sequence[tuple[int, EventId]], overlay: Overlay
    ) -> tuple[Event, list[StateEntry], dict[StateKey, Event]]:
        """Return a new event that follows these extremities and has this state, with its auth events (entries, state).

        It is not checked against the rules, and takes no place.
        """
        keys = self._auth_keys(draft)
        auth = [entry for key in keys if (entry := self._state.entry_in(overlay, key)) is not None]
        named = [event_id for _, event_id in extremities]
        event = build_event(
            self._version,
            room_id=self._room_id,
            sender=draft.sender,
            type=draft.type,
            state_key=draft.state_key,
            content=draft.content,
            prev_event_ids=named,
            auth_event_ids=[entry.event_id for entry in auth],
            depth=self._state.head.depth + 1,
            origin_server_ts=now_ms,
            redacts=draft.redacts,
            signing_key=self._identity.signing_key,
            server_name=self._identity.server_name,
            event_id_localpart=secrets.token_urlsafe(18) if self._version.event_id_server_signs else None,
            reference_hashes=self._state.hashes_of([*named, *(entry.event_id for entry in auth)]),
            sticky_ms=draft.sticky_ms,
        )
        return event, auth, self._state.auth_state(overlay, keys)

    def applies_redaction(self, redaction: Event, target: RedactionTarget, levels: PowerLevels | None = None) -> bool:
        """Return True if the redaction takes effect on the event that it names.

        levels: the power levels at the redaction. None: those of now.
        """
        named = stub(self._room_id, target.event_id, target.sender)
        levels = self._state.power_levels if levels is None else levels
        return may_apply_redaction(self._version, redaction, named, levels)

    def _auth_keys(self, draft: Draft) -> list[StateKey]:
        return auth_types_for(
            self._version,
            type=draft.type,
            sender=draft.sender,
            state_key=draft.state_key,
            content=draft.content,
        )

    def _placed(
        self, event: Event, nid: int, auth: Sequence[StateEntry], entry: StateEntry, draft: Draft | None = None
    ) -> BuiltEvent:
        """Return an event that follows all extremities, with the next place."""
        head = self._state.head
        changes: tuple[EntryChange, ...] = ()
        replaced = None
        if event.state_key is not None:
            replaced = self._state.entry(event.type, event.state_key)
            changes = (EntryChange((event.type, event.state_key), replaced, entry),)
        target = None if draft is None else draft.target
        if target is not None and not self.applies_redaction(event, target):
            target = None
        return BuiltEvent(
            event=event,
            event_nid=nid,
            ordinal=head.ordinal + 1,
            prev_nids=[prev for prev, _ in head.extremities],
            auth_nids=[named.event_nid for named in auth],
            replaces_nid=None if replaced is None else replaced.event_nid,
            redacts_nid=None if target is None else target.event_nid,
            redacts_sender=None if target is None else target.sender,
            membership=entry.membership,
            head=Head(((nid, event.event_id),), event.depth, head.ordinal + 1),
            changes=changes,
            device=None if draft is None else draft.device,
            txn_id=None if draft is None else draft.txn_id,
        )
