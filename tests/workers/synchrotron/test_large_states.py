"""An event above a large state that another server gave: syncing members learn of it although no frame carries it."""

from shared.core.events import build_event
from shared.core.identifiers import UserId
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import fleet
from tests.workers.event_persister.graph_model import OTHER_KEY
from tests.workers.event_persister.graph_rig import BOB, begin, deliver


async def test_members_sync_the_event_and_the_memberships_of_a_large_state(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        persister, alice = world.persisters[0], world.user("alice")
        room_id, graph, _ = await begin(persister, "10")
        bob = graph.make(sorted(graph.extremities), BOB, "m.room.member", {"membership": "join"}, BOB)
        graph.arrive(bob)
        await deliver(persister, room_id, [bob])
        since = (await alice.sync())["next_batch"]
        auth = [graph.current[key] for key in graph.current if key[0] in ("m.room.create", "m.room.join_rules")]
        auth.append(graph.current["m.room.power_levels", ""])
        users = [UserId(f"@u{number}:b.example") for number in range(400)]
        joins = [
            build_event(
                graph.version,
                room_id=graph.create.room_id,
                sender=user_id,
                type="m.room.member",
                state_key=user_id,
                content={"membership": "join"},
                prev_event_ids=[bob.event_id],
                auth_event_ids=auth,
                depth=9,
                origin_server_ts=1,
                signing_key=OTHER_KEY,
                server_name="b.example",
            )
            for user_id in users
        ]
        for first in range(0, len(joins), 200):
            await deliver(persister, room_id, joins[first : first + 200], outlier=True)
        lost = graph.make([bob.event_id], BOB, "m.room.message", {"body": "lost"})
        graph.arrive(lost)
        late = graph.make([lost.event_id], BOB, "m.room.message", {"body": "late"})
        state = [*graph.current.values(), *(event.event_id for event in joins)]
        await deliver(persister, room_id, [late], state_before=state)
        await world.settle()
        answer = await alice.sync(since)
        room = answer["rooms"]["join"][room_id]
        assert room["timeline"]["events"][-1]["event_id"] == late.event_id
        assert room["summary"]["m.joined_member_count"] == 400 + 2
        shown = {event["state_key"] for event in room["state"]["events"] if event["type"] == "m.room.member"}
        shown |= {event.get("state_key") for event in room["timeline"]["events"]}
        assert shown >= set(users)
