"""What an event persister is made of."""

from replication.worker_process import Foundation, Worker
from shared.core.signing import parse_signing_key
from shared.storage.numbers import NumberBlock
from workers.event_persister.create_room import CreateRoomHandler
from workers.event_persister.live_room import Identity
from workers.event_persister.member_changes import MemberChanges
from workers.event_persister.member_profile import MemberProfileHandler
from workers.event_persister.membership import MembershipHandlers
from workers.event_persister.policy_signatures import ask_nobody
from workers.event_persister.receive_handler import ReceiveHandler
from workers.event_persister.room_engine import compose_engine
from workers.event_persister.send import SendHandlers
from workers.event_persister.state_writes import StateHandlers


def compose(foundation: Foundation) -> Worker:
    config, database, clock = foundation.config, foundation.database, foundation.clock
    tasks = foundation.tasks
    server_name = config.server_name
    keys = [line for line in config.signing.key.reveal().splitlines() if line.strip()]
    identity = Identity(server_name, parse_signing_key(keys[0]))  # the first one signs
    engine = compose_engine(foundation, identity, ask_nobody)
    writer = engine.writer
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
        foundation.forwarder,
        NumberBlock(database, "room_nids"),
        database,
        clock,
    )

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
            "receive_events": ReceiveHandler(writer, engine.receiving).receive_events,
            "set_member_profile": MemberProfileHandler(writer, database).set_member_profile,
        },
        start=engine.start,
        drain=engine.drain,
    )
