"""Compose a synchrotron."""

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
    config, clock, follower, database = foundation.config, foundation.clock, foundation.follower, foundation.database
    limits, experimental, hold = config.limits, config.experimental, foundation.authenticator.hold
    metrics = SyncMetrics(foundation.registry)
    reads = CountedQueries(database, metrics)
    switches = rule_switches(experimental)
    # Shares of one budget: parts that answers share, answers under way, and members known to be sent in both syncs.
    share_bytes = config.caches.answers_bytes // 4

    async def wait_for(stream: str, wanted: Vector, limit_s: float) -> bool:
        return await follower.wait_for(STREAMS[stream], wanted, limit_s)

    # What the process knows of rooms and users, and how the streams change it.
    rooms = RoomCache(database, reads, config.caches.rooms_bytes // 8 * 7, metrics)
    users = UserRooms(reads, wait_for, config.caches.users_bytes, metrics, switches)
    typing = TypingRooms()
    sticky = StickyRooms(enabled=experimental.msc4354_sticky_events)
    traits = Traits(reads)
    watchers = RoomWatchers()
    notifier = Notifier(metrics)
    feed = Feed(rooms, users, typing, notifier, clock)
    device_lists = DeviceListFeed(users, notifier, reads, foundation.tasks)
    presence_memory = PresenceMemory()
    presence_feed = PresenceFeed(presence_memory, users, notifier, reads, clock)
    owners = PresenceOwners(foundation.slots, foundation.internal_client)
    reports = PresenceReports(owners, clock, enabled=config.presence.enabled)
    follower.follow(EVENTS, feed.apply_events)
    follower.follow(EVENTS, presence_feed.apply_events)
    follower.follow(EVENTS, reports.apply_events)
    follower.follow(EVENTS, lambda rows: sticky.apply(rows, clock.now_ms()))
    follower.follow(EVENTS, traits.apply)
    follower.follow(EVENTS, watchers.apply_events)
    follower.follow(RECEIPTS, feed.apply_receipts)
    follower.follow(ACCOUNT_DATA, feed.apply_account_data)
    follower.follow(PUSH_RULES, feed.apply_push_rules)
    follower.follow(THREAD_SUBSCRIPTIONS, feed.apply_thread_subscriptions)
    follower.follow(TO_DEVICE, feed.apply_to_device)
    follower.follow(DEVICE_LISTS, device_lists.apply)
    follower.follow(ONE_TIME_KEYS, feed.apply_one_time_keys)
    follower.follow(TYPING, feed.apply_typing, feed.typing_over)
    follower.follow(PRESENCE, presence_feed.apply, presence_feed.over)

    # The parts of answers that both syncs share.
    tokens = Tokens(follower, reads, clock)
    unread = UnreadCounts(users, reads)
    blocks = StateBlocks(rooms, clock, share_bytes)
    sticky_sections = StickySections(rooms, sticky)
    sections = RoomSections(
        rooms, typing, unread, ErasedForms(reads, clock), blocks, sticky_sections, limits.max_timeline_events
    )
    devices = DeviceSections(users, device_lists, reads)
    presence = PresenceSections(
        presence_memory, reads, enabled=config.presence.enabled, max_events=config.presence.max_events
    )
    initial_syncs = InitialSyncs(limits.initial_syncs, share_bytes)
    metrics.long_waiting.labels("begin").set_function(lambda: initial_syncs.under_way.waiting)
    metrics.long_waiting.labels("go on").set_function(lambda: initial_syncs.turns.waiting)
    pages = HistoryPages(database, StoredHistory(), config.caches.rooms_bytes // 8)

    sync = SyncHandler(
        users=users,
        answers=SyncAnswers(
            tokens=tokens,
            users=users,
            rooms=rooms,
            sections=sections,
            unread=unread,
            devices=devices,
            presence=presence,
            reads=reads,
            clock=clock,
        ),
        tokens=tokens,
        notifier=notifier,
        filters=Filters(reads),
        lazy_members=LazyMembers(share_bytes),
        max_timeout_ms=limits.max_sync_timeout_ms,
        clock=clock,
        metrics=metrics,
        hold=hold,
        reports=reports,
        initial_syncs=initial_syncs,
    )
    sliding = SlidingSync(
        users=users,
        engine=Engine(
            tokens=tokens,
            users=users,
            lists=RoomLists(rooms, traits, reads),
            traits=traits,
            results=RoomResults(rooms, sections, unread, reads),
            sections=sections,
            unread=unread,
            reads=reads,
            clock=clock,
        ),
        connections=Connections(reads, config.caches.users_bytes // 4, clock),
        extensions=Extensions(
            [
                ToDevice(devices, tokens),
                E2ee(devices),
                AccountData(),
                Receipts(rooms, sections),
                Typing(typing),
                ThreadSubscriptions(reads, enabled=experimental.msc4306_thread_subscriptions),
                StickyEvents(rooms, sticky, sticky_sections, tokens),
            ]
        ),
        tokens=tokens,
        notifier=notifier,
        lazy_members=LazyMembers(share_bytes),
        limits=Limits(limits.max_timeline_events, limits.max_sync_timeout_ms),
        clock=clock,
        metrics=metrics,
        hold=hold,
        reports=reports,
        turns=initial_syncs.turns,
    )
    old_events = OldEvents(
        sync=sync,
        peeks=RoomPeeks(database, tokens, pages, watchers, clock, limits.max_timeline_events),
        tokens=tokens,
        reports=reports,
        hold=hold,
        database=database,
        clock=clock,
        max_timeout_ms=limits.max_sync_timeout_ms,
        max_events=limits.max_timeline_events,
    )
    old_initial_sync = InitialSyncV1(
        sync=sync,
        reports=reports,
        hold=hold,
        database=database,
        tokens=tokens,
        pages=pages,
        clock=clock,
        max_events=limits.max_timeline_events,
    )

    async def start() -> None:
        if sticky.enabled:
            now_ms = clock.now_ms()
            sticky.load(await get_sticky_events(reads, now_ms, MAX_EVENTS), now_ms)

    async def drain() -> None:
        notifier.close()
        watchers.close()

    presence_jobs = {"presence": presence_feed.run, "presence reports": reports.run}
    return Worker(
        features=(
            sync,
            sliding,
            old_events,
            old_initial_sync,
            Messages(database, tokens, pages, clock, limits.max_timeline_events),
            RoomState(database, tokens, clock),
            EventAtTime(database),
            Relations(database, tokens, clock, limits.max_timeline_events),
            Notifications(database, switches, clock),
            ThreadSubscriptionPages(database, tokens, enabled=experimental.msc4306_thread_subscriptions),
            Search(database, pages, clock),
            RoomFinding(config.server_name, database),
            PublicRooms(config.server_name, database, clock),
        ),
        jobs={"typing ends": feed.end_typing, **(presence_jobs if config.presence.enabled else {})},
        start=start,
        drain=drain,
    )
