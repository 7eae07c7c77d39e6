"""What an event persister is made of."""

from replication.streams import EVENTS
from replication.worker_process import Foundation, Worker
from shared.core.signing import parse_signing_key
from shared.metrics.persister import PersisterMetrics
from shared.storage.numbers import NumberBlock
from workers.event_persister.committer import LOCK_WAIT_MS, Committer
from workers.event_persister.create_room import CreateRoomHandler
from workers.event_persister.live_room import Identity, LiveRoom
from workers.event_persister.member_changes import MemberChanges
from workers.event_persister.member_profile import MemberProfileHandler
from workers.event_persister.membership import MembershipHandlers
from workers.event_persister.room_writer import RoomWriter
from workers.event_persister.rooms_in_memory import RoomsInMemory
from workers.event_persister.send import SendHandlers
from workers.event_persister.state_writes import StateHandlers


def compose(foundation: Foundation) -> Worker:
    config, database, clock = foundation.config, foundation.database, foundation.clock
    slots, tasks = foundation.slots, foundation.tasks
    server_name = config.server_name
    keys = [line for line in config.signing.key.reveal().splitlines() if line.strip()]
    identity = Identity(server_name, parse_signing_key(keys[0]))  # the first one signs
    metrics = PersisterMetrics(foundation.registry)
    rooms = RoomsInMemory(database, identity, clock, config.caches.rooms_bytes, metrics)

    def lost_room(room: LiveRoom) -> None:
        rooms.drop(room)
        tasks.spawn(slots.refresh(), "read the slots")

    def slots_changed(kind: str, owned: set[int]) -> None:
        if kind == "rooms":
            rooms.drop_foreign(owned.__contains__)

    slots.on_change(slots_changed)
    event_numbers = NumberBlock(database, "event_nids")
    if not config.database.pgbouncer:  # there the role's lock_timeout stands
        foundation.writer.limit_lock_wait(LOCK_WAIT_MS)
    committer = Committer(
        foundation.writer.write,
        foundation.lease,
        lambda rows: foundation.announcer.announce(EVENTS, rows),
        lost_room,
        clock,
        tasks,
        metrics,
        server_name,
        database,
    )
    writer = RoomWriter(rooms, committer, event_numbers, database, clock)
    changes = MemberChanges(writer, database, server_name)
    send = SendHandlers(writer, database)
    state = StateHandlers(writer, changes, database, tasks)
    membership = MembershipHandlers(
        writer, changes, foundation.forwarder.forward, database, foundation.writer.write, server_name
    )
    creation = CreateRoomHandler(
        writer,
        changes,
        identity,
        config.rooms.default_version,
        lambda slot: slots.owns("rooms", slot),
        NumberBlock(database, "room_nids"),
        database,
        clock,
    )

    async def start() -> None:
        # The first send should not be the one that waits for numbers.
        await event_numbers.reserve(1)

    return Worker(
        handlers={
            "create_room": creation.create_room,
            "send_event": send.send_event,
            "redact_event": send.redact_event,
            "set_state": state.set_state,
            "join_room": membership.join_room,
            "join_room_by_id_or_alias": membership.join_room_by_id_or_alias,
            "knock_room": membership.knock_room,
            "leave_room": membership.leave_room,
            "forget_room": membership.forget_room,
            "invite_user": membership.invite_user,
            "kick_user": membership.kick_user,
            "ban_user": membership.ban_user,
            "unban_user": membership.unban_user,
            "set_member_profile": MemberProfileHandler(writer, database).set_member_profile,
        },
        start=start,
        drain=committer.finish,
    )
