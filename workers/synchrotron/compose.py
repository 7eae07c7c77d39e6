"""Puts a synchrotron together. Reads from top to bottom; nothing else constructs its objects."""

from replication.calls.presence import PresenceOwners
from replication.process.foundation import Foundation, Worker
from replication.streams import (
    ACCOUNT_DATA,
    DEVICE_LISTS,
    EVENTS,
    ONE_TIME_KEYS,
    PRESENCE,
    PUSH_RULES,
    RECEIPTS,
    STREAMS,
    THREAD_SUBSCRIPTIONS,
    TO_DEVICE,
    TYPING,
)
from shared.core.sync_tokens.vector import Vector
from shared.metrics.synchrotron import SyncMetrics
from shared.operations.rule_switches import rule_switches
from shared.rooms.history_page import HistoryPages, StoredHistory
from shared.storage.events.sticky import get_sticky_events
from workers.synchrotron.classic.initial_sync_v1 import InitialSyncV1
from workers.synchrotron.classic.long_answers import InitialSyncs
from workers.synchrotron.classic.old_events import OldEvents, RoomPeeks
from workers.synchrotron.classic.sync import SyncHandler
from workers.synchrotron.classic.sync_answer import SyncAnswers
from workers.synchrotron.classic.sync_request import Filters
from workers.synchrotron.counted_queries import CountedQueries
from workers.synchrotron.devices.device_lists import DeviceListFeed
from workers.synchrotron.devices.device_section import DeviceSections
from workers.synchrotron.feed import Feed
from workers.synchrotron.finding.notifications import Notifications
from workers.synchrotron.finding.public_rooms import PublicRooms
from workers.synchrotron.finding.search import Search
from workers.synchrotron.finding.summaries import RoomFinding
from workers.synchrotron.presence.memory import PresenceMemory
from workers.synchrotron.presence.presence import PresenceFeed, PresenceSections
from workers.synchrotron.presence.reports import PresenceReports
from workers.synchrotron.room_reads.event_at_time import EventAtTime
from workers.synchrotron.room_reads.messages import Messages
from workers.synchrotron.room_reads.relations import Relations
from workers.synchrotron.room_reads.room_state import RoomState
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.rooms.state_blocks import StateBlocks
from workers.synchrotron.rooms.sticky_rooms import MAX_EVENTS, StickyRooms
from workers.synchrotron.rooms.typing_rooms import TypingRooms
from workers.synchrotron.sections.erased_forms import ErasedForms
from workers.synchrotron.sections.joined_section import RoomSections
from workers.synchrotron.sections.sticky_section import StickySections
from workers.synchrotron.sliding.connections import Connections
from workers.synchrotron.sliding.engine import Engine
from workers.synchrotron.sliding.extensions.account_data import AccountData
from workers.synchrotron.sliding.extensions.e2ee import E2ee
from workers.synchrotron.sliding.extensions.receipts import Receipts
from workers.synchrotron.sliding.extensions.registry import Extensions
from workers.synchrotron.sliding.extensions.sticky_events import StickyEvents
from workers.synchrotron.sliding.extensions.thread_subscriptions import ThreadSubscriptionPages, ThreadSubscriptions
from workers.synchrotron.sliding.extensions.to_device import ToDevice
from workers.synchrotron.sliding.extensions.typing import Typing
from workers.synchrotron.sliding.handler import SlidingSync
from workers.synchrotron.sliding.request import Limits
from workers.synchrotron.sliding.room_lists import RoomLists
from workers.synchrotron.sliding.room_results import RoomResults
from workers.synchrotron.sliding.room_traits import Traits
from workers.synchrotron.users.lazy_members import LazyMembers
from workers.synchrotron.users.unread_counts import UnreadCounts
from workers.synchrotron.users.user_rooms import UserRooms
from workers.synchrotron.waiting.notifier import Notifier
from workers.synchrotron.waiting.room_watchers import RoomWatchers
from workers.synchrotron.waiting.sync_tokens import Tokens


def compose(foundation: Foundation) -> Worker:
    config, clock, follower = foundation.config, foundation.clock, foundation.follower
    metrics = SyncMetrics(foundation.registry)
    reads = CountedQueries(foundation.database, metrics)

    async def wait_for(stream: str, wanted: Vector, limit_s: float) -> bool:
        return await follower.wait_for(STREAMS[stream], wanted, limit_s)

    rooms = RoomCache(foundation.database, reads, config.caches.rooms_bytes // 8 * 7, metrics)
    switches = rule_switches(config.experimental)
    users = UserRooms(reads, wait_for, config.caches.users_bytes, metrics, switches)
    typing = TypingRooms()
    notifier = Notifier(metrics)
    feed = Feed(rooms, users, typing, notifier, clock)
    device_lists = DeviceListFeed(users, notifier, reads, foundation.tasks)
    present = PresenceMemory()
    presence_feed = PresenceFeed(present, users, notifier, reads, clock)
    owners = PresenceOwners(foundation.slots, foundation.internal_client)
    reports = PresenceReports(owners, clock, enabled=config.presence.enabled)
    follower.follow(EVENTS, feed.apply_events)
    follower.follow(EVENTS, presence_feed.apply_events)
    follower.follow(EVENTS, reports.apply_events)
    follower.follow(RECEIPTS, feed.apply_receipts)
    follower.follow(ACCOUNT_DATA, feed.apply_account_data)
    follower.follow(PUSH_RULES, feed.apply_push_rules)
    follower.follow(THREAD_SUBSCRIPTIONS, feed.apply_thread_subscriptions)
    follower.follow(TO_DEVICE, feed.apply_to_device)
    follower.follow(DEVICE_LISTS, device_lists.apply)
    follower.follow(ONE_TIME_KEYS, feed.apply_one_time_keys)
    follower.follow(TYPING, feed.apply_typing, feed.typing_over)
    follower.follow(PRESENCE, presence_feed.apply, presence_feed.over)

    tokens = Tokens(follower, reads, clock)
    filters = Filters(reads)
    unread = UnreadCounts(users, reads)
    # Shares of one budget: what answers have in common; what is on its way; what is known to be sent, in both syncs.
    share_bytes = config.caches.answers_bytes // 4
    blocks = StateBlocks(rooms, clock, share_bytes)
    sticky = StickyRooms(enabled=config.experimental.msc4354_sticky_events)
    follower.follow(EVENTS, lambda rows: sticky.apply(rows, clock.now_ms()))
    sticky_sections = StickySections(rooms, sticky)
    sections = RoomSections(
        rooms, typing, unread, ErasedForms(reads, clock), blocks, sticky_sections, config.limits.max_timeline_events
    )  # fmt: skip
    devices = DeviceSections(users, device_lists, reads)
    presence = PresenceSections(present, reads, enabled=config.presence.enabled, max_events=config.presence.max_events)
    answers = SyncAnswers(tokens, users, rooms, sections, unread, devices, presence, reads, clock)
    initial_syncs = InitialSyncs(config.limits.initial_syncs, share_bytes)
    metrics.long_waiting.labels("begin").set_function(lambda: initial_syncs.under_way.waiting)
    metrics.long_waiting.labels("go on").set_function(lambda: initial_syncs.turns.waiting)
    sync = SyncHandler(
        users, answers, tokens, notifier, filters, LazyMembers(share_bytes), config.limits.max_sync_timeout_ms, clock,
        metrics, foundation.authenticator.hold, reports, initial_syncs,
    )  # fmt: skip

    traits = Traits(reads)
    follower.follow(EVENTS, traits.apply)
    lists = RoomLists(rooms, traits, reads)
    results = RoomResults(rooms, sections, unread, reads)
    engine = Engine(tokens, users, lists, traits, results, sections, unread, reads, clock)
    threads = ThreadSubscriptions(reads, enabled=config.experimental.msc4306_thread_subscriptions)
    extensions = Extensions(
        [
            ToDevice(devices, tokens),
            E2ee(devices),
            AccountData(),
            Receipts(rooms, sections),
            Typing(typing),
            threads,
            StickyEvents(rooms, sticky, sticky_sections, tokens),
        ]
    )
    sliding = SlidingSync(
        users, engine, Connections(reads, config.caches.users_bytes // 4, clock), extensions, tokens, notifier,
        LazyMembers(share_bytes), Limits(config.limits.max_timeline_events, config.limits.max_sync_timeout_ms),
        clock, metrics, foundation.authenticator.hold, reports, initial_syncs.turns,
    )  # fmt: skip

    pages = HistoryPages(foundation.database, StoredHistory(), config.caches.rooms_bytes // 8)
    messages = Messages(foundation.database, tokens, pages, clock, config.limits.max_timeline_events)
    times = EventAtTime(foundation.database)
    relations = Relations(foundation.database, tokens, clock, config.limits.max_timeline_events)
    notifications = Notifications(foundation.database, switches, clock)
    search = Search(foundation.database, pages, clock)
    finding = RoomFinding(config.server_name, foundation.database)
    public_rooms = PublicRooms(config.server_name, foundation.database, clock)
    thread_pages = ThreadSubscriptionPages(
        foundation.database, tokens, enabled=config.experimental.msc4306_thread_subscriptions
    )
    room_state = RoomState(foundation.database, tokens, clock)

    watchers = RoomWatchers()
    follower.follow(EVENTS, watchers.apply_events)
    hold, max_events = foundation.authenticator.hold, config.limits.max_timeline_events
    peeks = RoomPeeks(foundation.database, tokens, pages, watchers, clock, max_events)
    old_events = OldEvents(
        sync, peeks, tokens, reports, hold, foundation.database, clock, config.limits.max_sync_timeout_ms, max_events
    )
    old_initial_sync = InitialSyncV1(sync, reports, hold, foundation.database, tokens, pages, clock, max_events)

    async def start() -> None:
        if sticky.enabled:
            now_ms = clock.now_ms()
            sticky.load(await get_sticky_events(reads, now_ms, MAX_EVENTS), now_ms)
        foundation.tasks.forever(feed.end_typing, "typing ends")
        if config.presence.enabled:
            foundation.tasks.forever(presence_feed.run, "presence")
            foundation.tasks.forever(reports.run, "reports of who syncs")

    async def drain() -> None:
        notifier.close()
        watchers.close()

    handlers = {
        "get_sync": sync.get_sync,
        "sync_merged": sliding.sync_merged,
        "sync_deployed": sliding.sync_deployed,
        "get_events": old_events.get_events,
        "get_initial_sync": old_initial_sync.get_initial_sync,
        "get_room_initial_sync": old_initial_sync.get_room_initial_sync,
        "get_room_messages": messages.get_room_messages,
        "get_event_context": messages.get_event_context,
        "get_room_event": messages.get_room_event,
        "get_event_by_id": messages.get_event_by_id,
        "get_room_state": room_state.get_room_state,
        "get_room_state_event": room_state.get_room_state_event,
        "get_room_members": room_state.get_room_members,
        "get_joined_members": room_state.get_joined_members,
        "get_event_by_timestamp": times.get_event_by_timestamp,
        "get_relations": relations.get_relations,
        "get_relations_by_type": relations.get_relations,
        "get_relations_by_types": relations.get_relations,
        "get_threads": relations.get_threads,
        "get_notifications": notifications.get_notifications,
        "list_thread_subscriptions": thread_pages.list_thread_subscriptions,
        "search": search.search,
        "get_hierarchy": finding.get_hierarchy,
        "get_room_summary": finding.get_room_summary,
        "get_public_rooms": public_rooms.get_public_rooms,
        "query_public_rooms": public_rooms.query_public_rooms,
    }
    return Worker(handlers=handlers, start=start, drain=drain)
