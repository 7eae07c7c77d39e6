"""The endpoints of event persisters: everything that writes into a room, at the owner of the room's slot."""

from shared.http.endpoint import Pool
from shared.http.serving import endpoints_of
from workers.event_persister.creation.create_room import CreateRoomHandler
from workers.event_persister.loading.applied_rows import AppliedRows
from workers.event_persister.members.change_membership import MembershipHandlers
from workers.event_persister.members.guest_removal import GuestRemoval
from workers.event_persister.members.member_profile import MemberProfileHandler
from workers.event_persister.receiving.receive_events import ReceiveHandler
from workers.event_persister.upgrades.successor import UpgradeSuccessor
from workers.event_persister.upgrades.upgrade import Upgrades
from workers.event_persister.writing.canonical_alias import CanonicalAliasRemoval
from workers.event_persister.writing.delayed_sending import DelayedSending
from workers.event_persister.writing.scheduling import Scheduling
from workers.event_persister.writing.send import SendHandlers
from workers.event_persister.writing.send_state import StateHandlers

POOLS = (Pool(name="rooms", worker="event_persister", slot_kind="rooms"),)

ENDPOINTS = endpoints_of(
    CreateRoomHandler,
    SendHandlers,
    StateHandlers,
    CanonicalAliasRemoval,
    Scheduling,
    DelayedSending,
    MembershipHandlers,
    MemberProfileHandler,
    GuestRemoval,
    Upgrades,
    UpgradeSuccessor,
    ReceiveHandler,
    AppliedRows,
)
