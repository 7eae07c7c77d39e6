"""A room of 20,000 members whose branches conflict: the event loop stays free, and other rooms are written."""

import asyncio
import gc
import secrets
from collections.abc import Sequence

from shared.core.event_auth import auth_types_for
from shared.core.events import Event, build_event
from shared.core.identifiers import EventId, RoomId, UserId
from shared.storage.events.batch import ChangeToStore, EventBatch, EventToStore, MembershipToStore
from shared.storage.events.commit import commit_events
from tests.fix_servers import TestDatabase
from tests.rigs.loop_pauses import LoopPauses
from tests.rigs.persister import Persister, User, event_persister
from tests.workers.event_persister.graph_model import OTHER_KEY, Graph
from tests.workers.event_persister.graph_rig import BOB, begin, deliver, forget_rooms, outcomes

MEMBERS = 20_000
MAX_PAUSE_S = 0.05
#: Steps that handle 20,000 rows or ids at once, some of them the test's own.
LONG_STEPS = 5


async def fill(persister: Persister, room_id: RoomId, graph: Graph, users: Sequence[UserId]) -> Event:
    """Store a join of each user, each following the one before; return the last."""
    [row] = await persister.sql(
        """SELECT r.room_nid, e.event_nid, e.event_id, e.ordinal, e.depth FROM rooms r JOIN events e USING (room_nid)
           WHERE r.room_id = $1 AND e.ordinal IS NOT NULL ORDER BY e.ordinal DESC LIMIT 1""",
        room_id,
    )
    room_nid, prev_nid, prev, ordinal, depth = row
    nid = prev_nid + 1_000_000
    content = {"membership": "join"}
    keys = auth_types_for(graph.version, type="m.room.member", sender=BOB, state_key=BOB, content=content)
    auth = [graph.current[key] for key in keys if key in graph.current and key != ("m.room.member", BOB)]
    event: Event | None = None
    for first in range(0, len(users), 500):
        batch = EventBatch()
        for user_id in users[first : first + 500]:
            nid, ordinal, depth = nid + 1, ordinal + 1, depth + 1
            event = build_event(
                graph.version,
                room_id=room_id,
                sender=user_id,
                type="m.room.member",
                state_key=user_id,
                content=content,
                prev_event_ids=[prev],
                auth_event_ids=auth,
                depth=depth,
                origin_server_ts=1,
                signing_key=OTHER_KEY,
                server_name="b.example",
            )
            batch.events.append(
                EventToStore(
                    room_nid=room_nid,
                    event_nid=nid,
                    event_id=event.event_id,
                    ordinal=ordinal,
                    depth=depth,
                    type=event.type,
                    state_key=user_id,
                    sender=user_id,
                    origin_server_ts=1,
                    prev_nids=[prev_nid],
                    auth_nids=[],
                    json=event.encoded,
                )
            )
            batch.changes.append(ChangeToStore(nid, ordinal, "m.room.member", user_id, nid, None))
            batch.memberships.append(MembershipToStore(nid, user_id, "join", nid, user_id, False))
            prev, prev_nid = event.event_id, nid
        batch.extremities[room_nid] = [nid]
        await commit_events(persister.foundation.writer.write, batch)
    forget_rooms(persister)
    assert event is not None
    return event


def member(graph: Graph, sender: UserId, previous: EventId, auth: list[EventId], depth: int, membership: str) -> Event:
    return build_event(
        graph.version,
        room_id=graph.create.room_id,
        sender=sender,
        type="m.room.member",
        state_key=sender,
        content={"membership": membership, "n": secrets.token_hex(4)},
        prev_event_ids=[previous],
        auth_event_ids=auth,
        depth=depth,
        origin_server_ts=2,
        signing_key=OTHER_KEY,
        server_name="b.example",
    )


async def send_all_the_time(alice: User, room_id: RoomId, done: asyncio.Event) -> list[float]:
    took: list[float] = []
    loop = asyncio.get_running_loop()
    while not done.is_set():
        started = loop.time()
        assert (await alice.send(room_id, "hi")).status == 200
        took.append(loop.time() - started)
        await asyncio.sleep(0.005)
    return took


async def test_fork_with_twenty_thousand_conflicts_does_not_block_the_loop(postgres: TestDatabase) -> None:
    """A branch from before the joins, and one whose state another server gives: nearly all entries conflict."""
    async with event_persister(postgres.dsn) as persister:
        room_id, graph, alice = await begin(persister, "10")
        small_room = await alice.create_room()
        bob = graph.make(sorted(graph.extremities), BOB, "m.room.member", {"membership": "join"}, BOB)
        graph.arrive(bob)
        await deliver(persister, room_id, [bob])
        users = [UserId(f"@u{n}:b.example") for n in range(MEMBERS)]
        last = await fill(persister, room_id, graph, users)
        assert (await alice.send(small_room, "warm")).status == 200
        gc.freeze()  # the collector would walk through all that the tests have in memory
        done = asyncio.Event()
        sending = asyncio.create_task(send_all_the_time(alice, small_room, done))
        async with LoopPauses() as pauses:
            topic = graph.make([bob.event_id], BOB, "m.room.topic", {"topic": "from long ago"}, "")
            graph.arrive(topic)
            assert outcomes(await deliver(persister, room_id, [topic])) == {topic.event_id: "accepted"}
            # The fork is an extremity now. An event that follows both branches resolves 20,000 differences.
            auth = [*topic.auth_event_ids]
            tie = build_event(
                graph.version,
                room_id=room_id,
                sender=BOB,
                type="m.room.message",
                state_key=None,
                content={},
                prev_event_ids=[topic.event_id, bob.event_id],
                auth_event_ids=auth,
                depth=last.depth + 1,
                origin_server_ts=3,
                signing_key=OTHER_KEY,
                server_name="b.example",
            )
            assert outcomes(await deliver(persister, room_id, [tie])) == {tie.event_id: "accepted"}
            lost = member(graph, users[0], last.event_id, auth[:2], last.depth + 1, "leave")
            rows = await persister.sql(
                "SELECT event_id FROM current_state JOIN events USING (room_nid, event_nid) JOIN rooms USING"
                " (room_nid) WHERE room_id = $1",
                room_id,
            )
            late = build_event(
                graph.version,
                room_id=room_id,
                sender=BOB,
                type="m.room.message",
                state_key=None,
                content={"b": 1},
                prev_event_ids=[lost.event_id],
                auth_event_ids=auth,
                depth=last.depth + 2,
                origin_server_ts=4,
                signing_key=OTHER_KEY,
                server_name="b.example",
            )
            given = [row[0] for row in rows if row[0] != topic.event_id]
            assert len(given) > MEMBERS
            results = outcomes(await deliver(persister, room_id, [late], state_before=given))
            assert results == {late.event_id: "accepted"}
            assert (await alice.send(room_id, "hi")).status == 200
            assert (await alice.act(room_id, "kick", {"user_id": users[1]})).status == 200
        gc.unfreeze()
        done.set()
        took = sorted(await sending)
        longest = [f"{pause_s * 1000:.0f}" for pause_s in pauses.all_s[:6]]
        print(f"pauses {longest} ms, sends {len(took)}, longest {took[-1]:.3f} s")
        assert pauses.all_s[LONG_STEPS] < MAX_PAUSE_S
        assert pauses.all_s[0] < 5 * MAX_PAUSE_S
        assert len(took) > 20, "the small room was written all the time"
