"""The parts that write into rooms, which every handler of the persister uses."""

from collections.abc import Callable
from dataclasses import dataclass

from replication.process.foundation import Foundation
from replication.streams import EVENTS, PUSH_RULES, THREAD_SUBSCRIPTIONS
from shared.metrics.persister import PersisterMetrics
from shared.metrics.resolution import ResolutionMetrics
from shared.operations.rule_switches import rule_switches
from shared.operations.store_outliers import OutlierStore
from shared.storage.engine.number_blocks import NumberBlock
from shared.storage.events.auth_chains import get_auth_chain_page
from workers.event_persister.commit.committer import LOCK_WAIT_MS, Committer
from workers.event_persister.graph.branch_resolution import RoomResolution
from workers.event_persister.graph.dummy_events import DummyEvents
from workers.event_persister.graph.parked_rooms import ParkedRooms
from workers.event_persister.graph.placement import Placing
from workers.event_persister.graph.policy_signatures import AskPolicyServer, PolicySignatures
from workers.event_persister.graph.resolver import Resolver, ResolverBounds
from workers.event_persister.graph.slow_sends import SlowSends
from workers.event_persister.loading.push_rules import PushRules
from workers.event_persister.loading.rooms_in_memory import RoomsInMemory
from workers.event_persister.receiving.delivery import Receiving
from workers.event_persister.receiving.history_events import HistoryPlacing
from workers.event_persister.room.event_builder import Identity
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room_writer import RoomWriter

_MAX_PAGE_BYTES = 8 << 20  # of JSON, read at once for a resolution


@dataclass(frozen=True, slots=True)
class RoomEngine:
    """writer: for events of our own users. receiving: for events of other servers."""

    rooms: RoomsInMemory
    committer: Committer
    event_numbers: NumberBlock
    resolver: Resolver
    writer: RoomWriter
    receiving: Receiving

    async def start(self) -> None:
        # So that the first send need not wait for numbers.
        await self.event_numbers.reserve(1)

    async def drain(self) -> None:
        """Wait until everything that was submitted is stored."""
        await self.committer.finish()
        await self.resolver.close()


def compose_engine(foundation: Foundation, identity: Identity, ask: AskPolicyServer) -> RoomEngine:
    """Put the engine together. ask: gets signatures from the policy servers of rooms."""
    config, database, clock = foundation.config, foundation.database, foundation.clock
    slots, tasks = foundation.slots, foundation.tasks
    server_name = config.server_name
    metrics = PersisterMetrics(foundation.registry)
    resolution_metrics = ResolutionMetrics(foundation.registry)
    resolver = Resolver(
        lambda room_nid, event_ids, max_events: get_auth_chain_page(
            database, room_nid, event_ids, max_events=max_events, max_bytes=_MAX_PAGE_BYTES
        ),
        clock,
        resolution_metrics,
        bounds=ResolverBounds(max_bytes=config.caches.resolutions_bytes),
    )
    parked = ParkedRooms(database, foundation.writer.write, clock, resolution_metrics)
    resolution = RoomResolution(resolver, database, parked)
    push_rules = PushRules(database, rule_switches(config), metrics)
    foundation.follower.follow(PUSH_RULES, push_rules.apply)
    foundation.follower.follow(THREAD_SUBSCRIPTIONS, push_rules.apply_subscriptions)
    rooms = RoomsInMemory(
        database=database,
        identity=identity,
        clock=clock,
        budget_bytes=config.caches.rooms_bytes,
        metrics=metrics,
        on_redacted=resolution.forget,
        push_rules=push_rules,
    )

    def lost_room(room: LiveRoom) -> None:
        rooms.drop(room)
        tasks.spawn(slots.refresh(), "read the slots")

    if not config.database.pgbouncer:  # with pgbouncer the role's lock_timeout holds
        foundation.writer.limit_lock_wait(LOCK_WAIT_MS)
    committer = Committer(
        write=foundation.writer.write,
        lease=foundation.lease,
        announce=lambda rows: foundation.announcer.announce(EVENTS, rows),
        lost_room=lost_room,
        clock=clock,
        tasks=tasks,
        metrics=metrics,
        server_name=server_name,
        database=database,
    )
    numbers = NumberBlock(database, "event_nids")
    placing = Placing(database, committer, numbers, resolution, push_rules)
    signatures = PolicySignatures(ask)
    asked = SlowSends(placing, resolution, signatures, database, clock)
    writer = RoomWriter(
        rooms=rooms,
        committer=committer,
        event_numbers=numbers,
        slow_sends=asked,
        push_rules=push_rules,
        database=database,
        clock=clock,
        max_state_bytes=foundation.config.limits.max_room_state_bytes,
    )
    dummies = DummyEvents(writer, asked, tasks, server_name)
    history = HistoryPlacing(database, committer, numbers, resolution)
    receiving = Receiving(
        outliers=OutlierStore(database, foundation.writer.write, numbers),
        database=database,
        committer=committer,
        numbers=numbers,
        placing=placing,
        history=history,
        signatures=signatures,
        dummies=dummies,
    )
    slots.on_change(_drop_foreign(rooms))
    return RoomEngine(rooms, committer, numbers, resolver, writer, receiving)


def _drop_foreign(rooms: RoomsInMemory) -> Callable[[str, set[int]], None]:
    def slots_changed(kind: str, owned: set[int]) -> None:
        if kind == "rooms":
            rooms.drop_foreign(owned.__contains__)

    return slots_changed
