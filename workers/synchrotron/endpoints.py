"""The endpoints of synchrotrons: /sync by user, and reads of rooms by room."""

from shared.http.endpoint import Pool
from shared.http.serving import endpoints_of
from workers.synchrotron.classic.legacy_events import LegacyEvents
from workers.synchrotron.classic.legacy_initial_sync import LegacyInitialSync
from workers.synchrotron.classic.sync import SyncHandler
from workers.synchrotron.finding.notifications import Notifications
from workers.synchrotron.finding.public_rooms import PublicRooms
from workers.synchrotron.finding.room_summaries import RoomSummaries
from workers.synchrotron.finding.search import Search
from workers.synchrotron.room_reads.event_by_timestamp import EventByTimestamp
from workers.synchrotron.room_reads.messages import Messages
from workers.synchrotron.room_reads.relations import Relations
from workers.synchrotron.room_reads.room_state import RoomState
from workers.synchrotron.sliding.extensions.thread_subscriptions import ThreadSubscriptionPages
from workers.synchrotron.sliding.handler import SlidingSync

POOLS = (
    # A long poll holds its connection: many at a time, and longer than the longest timeout.
    Pool(name="sync", worker="synchrotron", connections_per_instance=10_000, server_timeout_s=90.0),
    Pool(name="room_reads", worker="synchrotron", connections_per_instance=1_000, server_timeout_s=60.0),
)

ENDPOINTS = endpoints_of(
    SyncHandler,
    SlidingSync,
    LegacyEvents,
    LegacyInitialSync,
    Messages,
    RoomState,
    EventByTimestamp,
    Relations,
    Notifications,
    ThreadSubscriptionPages,
    Search,
    RoomSummaries,
    PublicRooms,
)
