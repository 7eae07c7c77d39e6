"""Construct a synchrotron, from memory to handlers. Nothing else constructs its objects."""

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
from workers.synchrotron.classic.legacy_events import LegacyEvents, RoomPreviews
from workers.synchrotron.classic.legacy_initial_sync import LegacyInitialSync
from workers.synchrotron.classic.long_responses import InitialSyncs
from workers.synchrotron.classic.sync import SyncHandler
from workers.synchrotron.classic.sync_request import Filters
from workers.synchrotron.classic.sync_response import SyncResponses
from workers.synchrotron.counted_queries import CountedQueries
from workers.synchrotron.devices.device_lists import DeviceListFeed
from workers.synchrotron.devices.device_section import DeviceSections
from workers.synchrotron.feed import Feed
from workers.synchrotron.finding.notifications import Notifications
from workers.synchrotron.finding.public_rooms import PublicRooms
from workers.synchrotron.finding.room_summaries import RoomSummaries
from workers.synchrotron.finding.search import Search
from workers.synchrotron.presence.feed import PresenceFeed
from workers.synchrotron.presence.memory import PresenceMemory
from workers.synchrotron.presence.reports import PresenceReports
from workers.synchrotron.presence.section import PresenceSections
from workers.synchrotron.room_reads.event_by_timestamp import EventByTimestamp
from workers.synchrotron.room_reads.messages import Messages
from workers.synchrotron.room_reads.relations import Relations
from workers.synchrotron.room_reads.room_state import RoomState
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.rooms.room_lookups import RoomLookups
from workers.synchrotron.rooms.state_blocks import StateBlocks
from workers.synchrotron.rooms.sticky_rooms import MAX_EVENTS, StickyRooms
from workers.synchrotron.rooms.typing_rooms import TypingRooms
from workers.synchrotron.sections.erased_senders import ErasedSenders
from workers.synchrotron.sections.room_sections import RoomSections
from workers.synchrotron.sections.sticky_section import StickySections
from workers.synchrotron.sections.stripped_state import StrippedStates
from workers.synchrotron.sections.timelines import RoomTimelines
from workers.synchrotron.sliding.connections import Connections
from workers.synchrotron.sliding.engine import Engine
from workers.synchrotron.sliding.extensions.devices import E2ee, ToDevice
from workers.synchrotron.sliding.extensions.extension import Extensions
from workers.synchrotron.sliding.extensions.room_data import AccountData, Receipts, Typing
from workers.synchrotron.sliding.extensions.sticky_events import StickyEvents
from workers.synchrotron.sliding.extensions.thread_subscriptions import ThreadSubscriptionPages, ThreadSubscriptions
from workers.synchrotron.sliding.handler import SlidingSync
from workers.synchrotron.sliding.request import Limits
from workers.synchrotron.sliding.room_lists import RoomLists
from workers.synchrotron.sliding.room_results import RoomResults
from workers.synchrotron.sliding.room_traits import RoomTraitsCache
from workers.synchrotron.users.lazy_members import LazyMembers
from workers.synchrotron.users.unread_counts import UnreadCounts
from workers.synchrotron.users.user_cache import UserCache
from workers.synchrotron.waiting.notifier import Notifier
from workers.synchrotron.waiting.room_watchers import RoomWatchers
from workers.synchrotron.waiting.sync_tokens import SyncTokens


def compose(foundation: Foundation) -> Worker:
    config, clock, database, follower = foundation.config, foundation.clock, foundation.database, foundation.follower
    hold = foundation.authenticator.hold
    metrics = SyncMetrics(foundation.registry)
    reads = CountedQueries(database, metrics)
    switches = rule_switches(config)
    max_events, max_timeout_ms = config.limits.max_timeline_events, config.limits.max_sync_timeout_ms
    room_share_bytes, answer_share_bytes = config.caches.rooms_bytes // 8, config.caches.answers_bytes // 4
    has_presence, has_sticky = config.presence.enabled, config.experimental.msc4354_sticky_events
    has_threads = config.experimental.msc4306_thread_subscriptions

    async def wait_for(stream: str, wanted: Vector, limit_s: float) -> bool:
        return await follower.wait_for(STREAMS[stream], wanted, limit_s)

    # The memory of rooms and users.
    rooms = RoomCache(database, reads, room_share_bytes * 7, metrics)
    lookups = RoomLookups(rooms, database, reads, metrics)
    users = UserCache(reads, wait_for, config.caches.users_bytes, metrics, switches)
    typing = TypingRooms()
    sticky = StickyRooms(enabled=has_sticky)
    traits = RoomTraitsCache(reads, room_share_bytes * 2)
    present = PresenceMemory()
    notifier = Notifier(metrics)
    watchers = RoomWatchers()

    # The streams that update it, in the order in which their rows are applied.
    feed = Feed(rooms, users, typing, notifier, clock)
    device_lists = DeviceListFeed(users, notifier, reads, foundation.tasks)
    presence_sections = PresenceSections(present, reads, enabled=has_presence, max_events=config.presence.max_events)
    presence_feed = PresenceFeed(present, users, notifier, reads, clock)
    owners = PresenceOwners(foundation.slots, foundation.internal_client)
    reports = PresenceReports(owners, clock, enabled=has_presence)
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
    follower.follow(TYPING, feed.apply_typing, feed.withdraw_typing)
    follower.follow(PRESENCE, presence_feed.apply, presence_feed.withdraw)

    # The parts of responses that both forms of sync have.
    tokens = SyncTokens(follower, reads, clock)
    unread = UnreadCounts(users, reads)
    erased = ErasedSenders(reads, clock)
    timelines = RoomTimelines(lookups, erased)
    stripped = StrippedStates(rooms, lookups, erased)
    sticky_sections = StickySections(lookups, sticky, erased)
    devices = DeviceSections(users, device_lists, reads)
    initial_syncs = InitialSyncs(config.limits.initial_syncs, answer_share_bytes, config.shares)
    foundation.share_metrics.show("long_answers", initial_syncs.under_way)
    metrics.long_waiting.labels("begin").set_function(lambda: initial_syncs.under_way.waiting)
    metrics.long_waiting.labels("go on").set_function(lambda: initial_syncs.turns.waiting)

    sync = SyncHandler(
        users=users,
        responses=SyncResponses(
            tokens=tokens,
            users=users,
            rooms=rooms,
            lookups=lookups,
            timelines=timelines,
            sections=RoomSections(
                rooms=rooms,
                lookups=lookups,
                timelines=timelines,
                typing=typing,
                unread=unread,
                erased=erased,
                blocks=StateBlocks(lookups, clock, answer_share_bytes),
                sticky=sticky_sections,
                max_timeline_events=max_events,
            ),
            stripped=stripped,
            typing=typing,
            unread=unread,
            devices=devices,
            presence=presence_sections,
            reads=reads,
            clock=clock,
        ),
        tokens=tokens,
        notifier=notifier,
        filters=Filters(reads, config.caches.users_bytes // 4),
        lazy_members=LazyMembers(answer_share_bytes),
        initial_syncs=initial_syncs,
        reports=reports,
        presence=presence_feed,
        hold=hold,
        clock=clock,
        metrics=metrics,
        max_timeout_ms=max_timeout_ms,
    )
    sliding = SlidingSync(
        users=users,
        engine=Engine(
            tokens=tokens,
            users=users,
            lists=RoomLists(rooms, traits, reads, erased),
            traits=traits,
            results=RoomResults(
                rooms=rooms, lookups=lookups, timelines=timelines, stripped=stripped, unread=unread, reads=reads
            ),
            typing=typing,
            unread=unread,
            reads=reads,
            clock=clock,
        ),
        connections=Connections(reads, config.caches.users_bytes, clock),
        extensions=Extensions(
            [
                ToDevice(devices, tokens),
                E2ee(devices),
                AccountData(),
                Receipts(rooms),
                Typing(typing),
                ThreadSubscriptions(reads, enabled=has_threads),
                StickyEvents(rooms, sticky, sticky_sections, tokens),
            ]
        ),
        tokens=tokens,
        notifier=notifier,
        lazy_members=LazyMembers(answer_share_bytes),
        turns=initial_syncs.turns,
        reports=reports,
        hold=hold,
        clock=clock,
        metrics=metrics,
        limits=Limits(max_events, max_timeout_ms),
    )

    # The API from before /sync, and room reads from Postgres.
    pages = HistoryPages(database, StoredHistory(), room_share_bytes)
    legacy_events = LegacyEvents(
        sync=sync,
        previews=RoomPreviews(database=database, tokens=tokens, pages=pages, watchers=watchers, clock=clock),
        tokens=tokens,
        reports=reports,
        hold=hold,
        database=database,
        clock=clock,
        max_timeout_ms=max_timeout_ms,
        max_events=max_events,
    )
    legacy_initial_sync = LegacyInitialSync(
        sync=sync,
        reports=reports,
        hold=hold,
        database=database,
        tokens=tokens,
        pages=pages,
        presence=presence_sections,
        clock=clock,
        max_events=max_events,
    )

    async def start() -> None:
        if has_sticky:
            now_ms = clock.now_ms()
            sticky.load(await get_sticky_events(reads, now_ms, MAX_EVENTS), now_ms)

    async def drain() -> None:
        notifier.close()
        watchers.close()

    presence_jobs = {"presence": presence_feed.run, "presence reports": reports.run} if has_presence else {}
    return Worker(
        features=(
            sync,
            sliding,
            legacy_events,
            legacy_initial_sync,
            Messages(database, tokens, pages, clock, max_events),
            RoomState(database, tokens, clock),
            EventByTimestamp(database),
            Relations(database, tokens, clock, max_events),
            Notifications(database, switches, clock),
            ThreadSubscriptionPages(database, tokens, enabled=has_threads),
            Search(database, pages, clock),
            RoomSummaries(config.server_name, database),
            PublicRooms(config.server_name, database, clock),
        ),
        jobs={"typing ends": feed.end_typing, **presence_jobs},
        start=start,
        drain=drain,
    )
