"""Compose an event persister."""

from replication.process.foundation import Foundation, Worker
from shared.core.signing import parse_signing_key
from shared.operations.quotas import UserQuotas
from shared.storage.engine.number_blocks import NumberBlock
from workers.event_persister.creation.create_room import CreateRoomHandler
from workers.event_persister.graph.policy_signatures import ask_nobody
from workers.event_persister.loading.applied_rows import AppliedRows
from workers.event_persister.members.change_membership import MembershipHandlers
from workers.event_persister.members.guest_removal import GuestRemoval
from workers.event_persister.members.member_changes import MemberChanges
from workers.event_persister.members.member_profile import MemberProfileHandler, MemberProfiles
from workers.event_persister.receiving.deliveries import Deliveries
from workers.event_persister.receiving.given_states import GivenStates
from workers.event_persister.receiving.receive_events import ReceiveHandler
from workers.event_persister.room.event_builder import Identity
from workers.event_persister.room_engine import compose_engine
from workers.event_persister.upgrades.runs import UpgradeRuns
from workers.event_persister.upgrades.successor import UpgradeSuccessor
from workers.event_persister.upgrades.upgrade import Upgrades
from workers.event_persister.writing.canonical_alias import CanonicalAliasRemoval
from workers.event_persister.writing.delayed_sending import DelayedSending
from workers.event_persister.writing.scheduling import Scheduling
from workers.event_persister.writing.send import SendHandlers
from workers.event_persister.writing.send_state import StateHandlers


def compose(foundation: Foundation) -> Worker:
    config, database, clock = foundation.config, foundation.database, foundation.clock
    tasks = foundation.tasks
    server_name = config.server_name
    keys = [line for line in config.signing.key.reveal().splitlines() if line.strip()]
    identity = Identity(server_name, parse_signing_key(keys[0]))  # the first one signs
    engine = compose_engine(foundation, identity, ask_nobody)
    writer = engine.writer
    profiles = MemberProfiles(writer, database)
    changes = MemberChanges(writer, profiles, database, server_name)
    quotas = UserQuotas(config, foundation.registry)
    has_sticky = config.experimental.msc4354_sticky_events
    scheduling = Scheduling(database, config.delayed_events, quotas, has_sticky=has_sticky)
    guests = GuestRemoval(writer, tasks, database)
    send = SendHandlers(writer, scheduling, guests, database)
    state = StateHandlers(writer, scheduling, changes, guests, database)
    membership = MembershipHandlers(
        writer=writer,
        changes=changes,
        forward=foundation.forwarder.forward,
        database=database,
        write=foundation.writer.write,
        server_name=server_name,
    )
    room_numbers = NumberBlock(database, "room_nids")
    upgrades = Upgrades(
        writer=writer,
        changes=changes,
        calls=foundation.calls,
        runs=UpgradeRuns(),
        identity=identity,
        database=database,
        write=foundation.writer.write,
        clock=clock,
    )
    successor = UpgradeSuccessor(
        writer=writer,
        profiles=profiles,
        identity=identity,
        room_numbers=room_numbers,
        database=database,
        runs=UpgradeRuns(),
        copies_bans=config.rooms.upgrade_copies_bans,
    )
    creation = CreateRoomHandler(
        writer=writer,
        changes=changes,
        profiles=profiles,
        identity=identity,
        default_version=config.rooms.default_version,
        slots=foundation.forwarder,
        room_numbers=room_numbers,
        database=database,
        clock=clock,
        quotas=quotas,
    )

    return Worker(
        features=(
            creation,
            send,
            state,
            CanonicalAliasRemoval(writer),
            scheduling,
            DelayedSending(writer, send, state, foundation.rate_limiter, database),
            membership,
            MemberProfileHandler(writer, profiles),
            guests,
            upgrades,
            successor,
            AppliedRows(foundation.follower),
            ReceiveHandler(
                writer=writer,
                receiving=engine.receiving,
                given_states=GivenStates(database, foundation.writer.write, engine.event_numbers),
                deliveries=Deliveries(tasks),
                guests=guests,
            ),
        ),
        start=engine.start,
        drain=engine.drain,
    )
