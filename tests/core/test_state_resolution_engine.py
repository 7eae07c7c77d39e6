"""State resolution in small rooms made by hand. Spec: rooms/v1, v2 and v12, "State resolution".

Events have readable ids and no hashes. `Story` gives each event the auth events that its state requires.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from shared.core.event_auth import auth_types_for
from shared.core.events import Event
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_versions import ROOM_VERSIONS
from shared.core.state_resolution import resolve, resolve_overlays
from shared.core.state_resolution.auth_chains import AuthDifference, AuthGraph, conflicted_subgraph, walk_chains
from shared.core.state_resolution.ordering import (
    mainline_ordering,
    power_ordering_depends_on,
    reverse_topological_power_ordering,
)

State = dict[tuple[str, str], EventId]

ALICE, BOB, CAROL, EVE = (
    UserId("@alice:a.example"),
    UserId("@bob:b.example"),
    UserId("@carol:c.example"),
    UserId("@eve:e.example"),
)
CREATE, LEVELS, RULES, TOPIC = (
    ("m.room.create", ""),
    ("m.room.power_levels", ""),
    ("m.room.join_rules", ""),
    ("m.room.topic", ""),
)

V2_AND_LATER = [name for name in ROOM_VERSIONS if name != "1"]


def member(user_id: UserId) -> tuple[str, str]:
    return ("m.room.member", user_id)


class Story:
    """A room's events. Alice created it, is joined and has power 100. The room is public."""

    def __init__(self, version_name: str) -> None:
        self.version = ROOM_VERSIONS[version_name]
        self.events: dict[EventId, Event] = {}
        self.lookups: list[str] = []
        self.begun: State = {}
        self.create = self.send(self.begun, "create", ALICE, CREATE, {"creator": ALICE, "room_version": version_name})
        self.send(self.begun, "alice joins", ALICE, member(ALICE), {"membership": "join"}, prev=[EventId("create")])
        self.levels(self.begun, "levels", ALICE)
        self.send(self.begun, "public", ALICE, RULES, {"join_rule": "public"})

    def send(
        self,
        state: State,
        name: str,
        sender: UserId,
        key: tuple[str, str],
        content: Mapping[str, Any] | None = None,
        *,
        prev: Sequence[EventId] = (),
        auth: Sequence[EventId] | None = None,
        at: int | None = None,
        depth: int | None = None,
    ) -> Event:
        """Put an event into the state. auth: ids of other auth events than the right ones. at: its time."""
        if auth is None:
            keys = auth_types_for(self.version, type=key[0], sender=sender, state_key=key[1], content=content or {})
            auth = [state[needed] for needed in keys if needed in state]
        number = len(self.events)
        event = Event(
            event_id=EventId(name),
            room_id=RoomId("!room:a.example"),
            type=key[0],
            sender=sender,
            state_key=key[1],
            content=content or {},
            depth=number if depth is None else depth,
            origin_server_ts=number if at is None else at,
            prev_event_ids=tuple(prev),
            auth_event_ids=tuple(auth),
            redacts=None,
            pdu={},
            encoded=b"",
        )
        self.events[event.event_id] = event
        state[key] = event.event_id
        return event

    def levels(self, state: State, name: str, sender: UserId, **users: int) -> Event:
        """Set power levels; keywords are the users of this file in lower case."""
        named = {"alice": ALICE, "bob": BOB, "carol": CAROL, "eve": EVE}
        given = {named[user]: level for user, level in users.items()}
        if not self.version.creators_outrank_all:
            given.setdefault(ALICE, 100)
        return self.send(state, name, sender, LEVELS, {"users": given})

    def join(self, state: State, *user_ids: UserId) -> None:
        for user_id in user_ids:
            name = f"{user_id[1:].partition(':')[0]} joins"
            self.send(state, name, user_id, member(user_id), {"membership": "join"})

    def find(self, event_id: EventId) -> Event | None:
        self.lookups.append(event_id)
        return self.events.get(event_id)

    def resolve(self, *states: State, rejected: Sequence[str] = ()) -> State:
        """Resolve in every order, which must give one result. Resolving it with itself must change nothing."""
        results = [
            resolve(self.version, order, self.find, rejected=rejected.__contains__, create=self.create)
            for order in itertools.permutations(states)
        ]
        assert all(result == results[0] for result in results)
        again = resolve(self.version, [results[0], dict(results[0])], self.find, create=self.create)
        assert again == results[0]
        return results[0]


# --- all versions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROOM_VERSIONS)
def test_agreed_state_stays_and_is_not_looked_up(name: str) -> None:
    story = Story(name)
    state = dict(story.begun)
    state["m.room.topic", ""] = EventId("nobody has this event")
    assert resolve(story.version, [], story.find, create=story.create) == {}
    assert resolve(story.version, [state], story.find, create=story.create) == state
    assert resolve(story.version, [state, dict(state)], story.find, create=story.create) == state
    assert story.lookups == []


@pytest.mark.parametrize("name", ROOM_VERSIONS)
def test_ban_wins_over_concurrent_events_of_the_banned_user(name: str) -> None:
    story = Story(name)
    story.levels(story.begun, "bob may", ALICE, bob=50)
    story.join(story.begun, BOB)
    banned, going_on = dict(story.begun), dict(story.begun)
    story.send(banned, "ban", ALICE, member(BOB), {"membership": "ban"})
    story.send(going_on, "topic", BOB, TOPIC, {"topic": "mine"})
    story.send(going_on, "bob renamed", BOB, member(BOB), {"membership": "join", "displayname": "b"})
    resolved = story.resolve(banned, going_on)
    assert resolved[member(BOB)] == "ban"
    # In version 1 a key that one state lacks is no conflict, so the topic is not checked.
    assert resolved.get(TOPIC) == ("topic" if name == "1" else None)


@pytest.mark.parametrize("name", ROOM_VERSIONS)
def test_missing_conflicted_events_are_skipped(name: str) -> None:
    story = Story(name)
    one, other = dict(story.begun), dict(story.begun)
    story.send(one, "topic", ALICE, TOPIC)
    other[TOPIC] = EventId("missing")
    other[LEVELS] = EventId("missing too")
    one["m.lost", ""] = EventId("lost 1")
    other["m.lost", ""] = EventId("lost 2")
    resolved = story.resolve(one, other)
    assert resolved[TOPIC] == "topic"
    assert resolved[LEVELS] == "levels"
    assert ("m.lost", "") not in resolved


@pytest.mark.parametrize("name", ROOM_VERSIONS)
def test_long_chains_need_no_recursion(name: str) -> None:
    story = Story(name)
    states = [dict(story.begun), dict(story.begun)]
    for branch, state in enumerate(states):
        for number in range(2000):
            story.send(state, f"{branch} {number}", ALICE, member(ALICE), {"membership": "join"})
    assert story.resolve(*states)[member(ALICE)] == "1 1999"


# --- version 1 -----------------------------------------------------------------------------------------------


def test_v1_list_ends_at_the_first_event_that_is_not_allowed() -> None:
    story = Story("1")
    story.join(story.begun, BOB)
    states = [dict(story.begun) for _ in range(3)]
    story.levels(states[0], "first", ALICE, bob=50)  # the first is not checked
    story.levels(states[1], "too much", BOB, bob=100)
    story.levels(states[2], "after", ALICE, bob=20)
    assert story.resolve(*states)[LEVELS] == "first"
    assert story.resolve(states[0], states[2])[LEVELS] == "after"


def test_v1_orders_by_depth_and_then_by_hash() -> None:
    story = Story("1")
    states = [dict(story.begun) for _ in range(4)]
    # SHA-1: "b" e9d7..., "a" 86f7..., "c" 84a5...; at equal depth the lowest is taken for a topic.
    for state, (name, depth) in zip(states, [("a", 9), ("b", 9), ("c", 9), ("d", 8)], strict=True):
        story.send(state, name, ALICE, TOPIC, depth=depth)
    assert story.resolve(*states)[TOPIC] == "c"
    # In the lists the order is descending and the last one is accepted, so it is the other way round.
    rules = [dict(story.begun) for _ in range(3)]
    for state, name in zip(rules, ["a", "b", "c"], strict=True):
        story.send(state, name, ALICE, RULES, {"join_rule": "invite"}, depth=9)
    assert story.resolve(*rules)[RULES] == "c"


def test_v1_picks_the_newest_allowed_event_or_none() -> None:
    story = Story("1")
    states = [dict(story.begun) for _ in range(2)]
    story.send(states[0], "by alice", ALICE, TOPIC)
    story.send(states[1], "by eve", EVE, TOPIC)
    assert story.resolve(*states)[TOPIC] == "by alice"
    story.send(states[0], "by eve too", EVE, TOPIC)
    assert TOPIC not in story.resolve(*states)


# --- versions 2 to 12 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", V2_AND_LATER)
def test_demotion_wins_over_the_demoted_users_topic(name: str) -> None:
    story = Story(name)
    story.join(story.begun, BOB)
    story.levels(story.begun, "bob may", ALICE, bob=50)
    demoted, going_on = dict(story.begun), dict(story.begun)
    story.send(going_on, "topic", BOB, TOPIC)
    story.levels(demoted, "bob may not", ALICE)
    resolved = story.resolve(demoted, going_on)
    assert resolved[LEVELS] == "bob may not"
    assert TOPIC not in resolved


@pytest.mark.parametrize("name", V2_AND_LATER)
def test_topic_under_newer_power_levels_wins_whatever_its_time(name: str) -> None:
    story = Story(name)
    old, new = dict(story.begun), dict(story.begun)
    story.send(old, "old", ALICE, TOPIC, at=1000)
    story.levels(new, "newer levels", ALICE, bob=1)
    story.send(new, "new", ALICE, TOPIC, at=1)
    assert story.resolve(old, new)[TOPIC] == "new"
    same = dict(story.begun)
    story.send(same, "same levels", ALICE, TOPIC, at=999)
    assert story.resolve(old, same)[TOPIC] == "old"
    story.send(same, "p", ALICE, TOPIC, at=1000)  # "p" > "old"
    assert story.resolve(old, same)[TOPIC] == "p"


@pytest.mark.parametrize("name", V2_AND_LATER)
def test_steps_between_the_states_are_replayed(name: str) -> None:
    """MSC1442's example: Alice promotes Bob, Bob promotes Carol. The auth difference includes the step between."""
    story = Story(name)
    story.join(story.begun, BOB, CAROL)
    far = dict(story.begun)
    story.levels(far, "bob 60", ALICE, bob=60)
    story.levels(far, "carol 55", BOB, bob=60, carol=55)
    story.send(far, "topic", CAROL, TOPIC)
    resolved = story.resolve(story.begun, far)
    assert resolved[LEVELS] == "carol 55"
    assert resolved[TOPIC] == "topic"


@pytest.mark.parametrize("name", V2_AND_LATER)
def test_rejected_auth_events_are_no_fallback(name: str) -> None:
    story = Story(name)
    joined = dict(story.begun)
    story.join(joined, BOB)
    story.levels(joined, "bob may", ALICE, bob=50)
    one = {key: event_id for key, event_id in joined.items() if key != member(BOB)}
    other = dict(one)
    for state, name_of_topic in ((one, "one"), (other, "other")):
        story.send(state, name_of_topic, BOB, TOPIC, auth=[EventId("create"), EventId("bob joins"), EventId("bob may")])
    assert story.resolve(one, other)[TOPIC] == "other"
    assert TOPIC not in story.resolve(one, other, rejected=["bob joins"])


@pytest.mark.parametrize("name", V2_AND_LATER)
def test_circles_and_duplicates_among_auth_events(name: str) -> None:
    story = Story(name)
    one, other = dict(story.begun), dict(story.begun)
    story.send(
        one,
        "one",
        ALICE,
        TOPIC,
        auth=[EventId("create"), EventId("levels"), EventId("levels"), EventId("alice joins"), EventId("gone")],
    )
    story.send(
        other,
        "other",
        ALICE,
        TOPIC,
        auth=[EventId("other"), EventId("create"), EventId("levels"), EventId("alice joins")],
    )
    story.send(one, "x", ALICE, LEVELS, auth=[EventId("y"), EventId("create"), EventId("alice joins")])
    story.send(other, "y", ALICE, LEVELS, auth=[EventId("x"), EventId("create"), EventId("alice joins")])
    resolved = story.resolve(one, other)
    assert resolved[TOPIC] == "other"
    # Neither can be ordered, so neither is replayed, and the older levels are in no state.
    assert LEVELS not in resolved


def test_2_1_problem_a() -> None:
    """MSC4297: the unconflicted state must not unauthorise the events on which the conflicted ones depend."""
    for name, expected in (("11", None), ("12", "invite only")):
        story = Story(name)
        story.join(story.begun, BOB)
        story.levels(story.begun, "bob too", ALICE, bob=100)
        story.send(story.begun, "bob's rules", BOB, RULES, {"join_rule": "public"})
        right = dict(story.begun)
        story.send(right, "invite only", BOB, RULES, {"join_rule": "invite"})
        story.send(right, "bob leaves", BOB, member(BOB), {"membership": "leave"})
        stale = {**right, RULES: EventId("bob's rules")}
        assert story.resolve(right, stale).get(RULES) == expected


def test_2_1_problem_b() -> None:
    """MSC4297: the step between two conflicted events is replayed, although it is in the chains of both branches."""
    for name, expected in (("11", "levels"), ("12", "carol 55")):
        story = Story(name)
        story.join(story.begun, BOB, CAROL)
        right = dict(story.begun)
        story.levels(right, "bob 60", ALICE, bob=60)
        story.levels(right, "carol 55", BOB, bob=60, carol=55)
        story.send(right, "renamed", CAROL, member(CAROL), {"membership": "join"})
        stale = {**right, LEVELS: EventId("levels")}
        assert story.resolve(right, stale)[LEVELS] == expected


@pytest.mark.parametrize("name", V2_AND_LATER)
def test_small_conflict_in_a_big_room_looks_up_little(name: str) -> None:
    story = Story(name)
    story.join(story.begun, BOB)
    story.levels(story.begun, "bob may", ALICE, bob=50)
    story.send(story.begun, "name", ALICE, ("m.room.name", ""))
    for number in range(2000):
        user_id = UserId(f"@u{number}:u.example")
        story.send(story.begun, user_id, user_id, member(user_id), {"membership": "join"})
    one, other = dict(story.begun), dict(story.begun)
    story.send(one, "one", ALICE, TOPIC)
    story.send(other, "other", BOB, TOPIC)
    assert resolve(story.version, [one, other], story.find, create=story.create)[TOPIC] == "other"
    assert len(story.lookups) < 100


# --- definitions ---------------------------------------------------------------------------------------------


def edges(**auth: str) -> AuthGraph:
    """Return a graph in which each event, a letter, cites the events in its text."""
    story = Story("2")
    for name, cited in auth.items():
        story.send({}, name, ALICE, ("m.test", name), auth=list(map(EventId, cited)))
    return AuthGraph(lambda event_id: story.events.get(event_id))


def names(graph: AuthGraph, numbers: set[int]) -> str:
    return "".join(sorted(graph.ids[number] for number in numbers))


def test_auth_difference_has_events_themselves_only_when_cited() -> None:
    graph = edges(a="", b="a", c="b", d="b", e="a", f="e")
    conflicted = {graph.number_of(EventId("c")): 0b01, graph.number_of(EventId("f")): 0b10}
    difference = AuthDifference(graph, walk_chains(graph, conflicted), conflicted, 2)
    assert names(graph, difference.doubtful) == "be"
    difference.settle([graph.number_of(EventId("b"))])  # in both states, but cited in one chain only
    assert names(graph, difference.doubtful) == "be"
    difference.settle([graph.number_of(EventId("d"))])  # cites it in both chains
    assert names(graph, difference.doubtful) == "e"


def test_auth_difference_among_circles() -> None:
    graph = edges(a="b", b="ca", c="", d="c", x="a", y="d")
    conflicted = {graph.number_of(EventId("x")): 0b01, graph.number_of(EventId("y")): 0b10}
    chains = walk_chains(graph, conflicted)
    assert names(graph, set(chains.tangled)) == "abc"
    assert names(graph, AuthDifference(graph, chains, conflicted, 2).doubtful) == "abd"


def test_conflicted_subgraph_has_all_events_between() -> None:
    graph = edges(a="", b="a", c="b", d="c", e="b", f="a")
    conflicted = {graph.number_of(EventId(name)): 1 for name in "bdf"}
    assert names(graph, conflicted_subgraph(graph, walk_chains(graph, conflicted), conflicted)) == "bcdf"


def test_power_ordering_compares_power_then_time_then_id() -> None:
    story = Story("11")
    story.levels(story.begun, "bob may", ALICE, bob=50)
    state = story.begun
    sent = [
        story.send(dict(state), "late", ALICE, TOPIC, at=9),
        story.send(dict(state), "b", BOB, TOPIC, at=2),
        story.send(dict(state), "a", BOB, TOPIC, at=2),
        story.send(dict(state), "early", BOB, TOPIC, at=1),
        story.send(
            dict(state),
            "upon early",
            ALICE,
            TOPIC,
            at=0,
            auth=[EventId("early"), EventId("bob may"), EventId("create")],
        ),
    ]
    graph = AuthGraph(story.find)
    events = {graph.number_of(event.event_id): event for event in sent}
    ordered = reverse_topological_power_ordering(story.version, story.create, story.find, graph, events)
    assert [event.event_id for event in ordered] == ["late", "early", "upon early", "a", "b"]


def test_power_ordering_depends_on_events_that_make_others_wait() -> None:
    story = Story("11")
    story.join(story.begun, BOB, CAROL)
    before = dict(story.begun)
    story.levels(story.begun, "both may", ALICE, bob=50, carol=50)
    late = story.send(dict(before), "bob again", BOB, member(BOB), {"membership": "join"}, at=50)
    early = story.send(dict(story.begun), "carol again", CAROL, member(CAROL), {"membership": "join"}, at=5)
    state = {**story.begun, member(BOB): late.event_id, member(CAROL): early.event_id}
    by_bob = story.send(dict(state), "by bob", BOB, TOPIC, at=60)
    by_carol = story.send(dict(state), "by carol", CAROL, TOPIC, at=70)
    graph = AuthGraph(story.find)

    def depends(events: list[Event], others: list[Event]) -> bool:
        numbered = [{graph.number_of(event.event_id): event for event in some} for some in (events, others)]
        return power_ordering_depends_on(story.version, story.create, story.find, graph, *numbered)

    # If "bob again" is ordered too, it has no power, so that Carol's topic comes before it, and before Bob's.
    assert depends([by_bob, by_carol], [late])
    assert depends([by_bob, by_carol], [late, early])
    assert not depends([by_bob, by_carol], [early])
    assert not depends([by_bob], [late])
    assert not depends([by_bob, by_carol], [])


def test_mainline_ordering_with_side_branches_and_no_power_levels() -> None:
    story = Story("11")
    first, second = dict(story.begun), dict(story.begun)
    story.levels(first, "main", ALICE, bob=1)
    story.levels(second, "side", ALICE, bob=2)
    sent = [
        story.send(first, "on main", ALICE, TOPIC, at=1),
        story.send(second, "on side", ALICE, TOPIC, at=2),
        story.send(dict(story.begun), "on first levels", ALICE, TOPIC, at=3),
        story.send({}, "on none", ALICE, TOPIC, at=4),
    ]
    graph = AuthGraph(story.find)
    events = {graph.number_of(event.event_id): event for event in sent}
    by_main = mainline_ordering(graph, EventId("main"), events)
    # The side branch leaves the mainline at the first levels, so it counts as old as those.
    assert [event.event_id for event in by_main] == ["on none", "on side", "on first levels", "on main"]
    by_time = mainline_ordering(graph, None, events)
    assert [event.event_id for event in by_time] == ["on main", "on side", "on first levels", "on none"]


# --- overlays ------------------------------------------------------------------------------------------------


class NeverWalked(dict[tuple[str, str], EventId]):
    """A base that may only be read by key."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        raise AssertionError("the base was iterated")

    items = values = keys = copy = __iter__  # type: ignore[assignment]


class BigRoom(Story):
    """A room of 2,000 members. Bob and Carol became moderators after their joins, which no agreed event cites yet."""

    def __init__(self, version_name: str) -> None:
        super().__init__(version_name)
        self.join(self.begun, BOB, CAROL, EVE)
        self.levels(self.begun, "moderators", ALICE, bob=50, carol=50)
        for number in range(2000):
            user_id = UserId(f"@u{number}:u.example")
            self.send(self.begun, user_id, user_id, member(user_id), {"membership": "join"})
        self.base = NeverWalked(self.begun)

    def resolve_overlays(self, *branches: State) -> dict[tuple[str, str], EventId | None]:
        overlays = [
            {key: event_id for key, event_id in branch.items() if self.begun.get(key) != event_id}
            for branch in branches
        ]
        self.lookups.clear()
        return resolve_overlays(self.version, self.base, overlays, self.find, create=self.create)


@pytest.mark.parametrize("name", V2_AND_LATER)
def test_dispute_of_moderators_in_a_big_room_looks_up_little(name: str) -> None:
    """The moderators' memberships may be in the auth difference. Deciding that would take the whole state."""
    story = BigRoom(name)
    one, other = dict(story.begun), dict(story.begun)
    story.send(one, "ban", BOB, member(EVE), {"membership": "ban"})
    story.send(other, "invite only", CAROL, RULES, {"join_rule": "invite"})
    assert story.resolve_overlays(one, other) == {member(EVE): "ban", RULES: "invite only"}
    assert len(story.lookups) < 300


@pytest.mark.parametrize("name", V2_AND_LATER)
def test_dispute_of_many_moderators_in_a_big_room_looks_up_little(name: str) -> None:
    """There are too many combinations to try, but all memberships are older than the moderators' conflicting events."""
    story = BigRoom(name)
    moderators = [UserId(f"@m{number}:m.example") for number in range(20)]
    story.join(story.begun, *moderators)
    users = {**dict.fromkeys(moderators, 50), **({} if story.version.creators_outrank_all else {ALICE: 100})}
    story.send(story.begun, "twenty", ALICE, LEVELS, {"users": users})
    for user_id in moderators:
        story.send(story.begun, f"{user_id} again", user_id, member(user_id), {"membership": "join"})
    story.base.update(story.begun)
    branches = [dict(story.begun), dict(story.begun)]
    for number, user_id in enumerate(moderators):
        content = {"membership": "ban"}
        story.send(
            branches[number % 2], f"ban {number}", user_id, member(UserId(f"@u{number // 2}:u.example")), content
        )
    # Two ban each other: the later ban wins, since its sender may ban the other again.
    bans = {member(UserId(f"@u{number}:u.example")): f"ban {2 * number + 1}" for number in range(10)}
    assert story.resolve_overlays(*branches) == bans
    assert len(story.lookups) < 3000


@pytest.mark.parametrize("name", V2_AND_LATER)
def test_topic_under_older_levels_in_a_big_room_looks_up_little(name: str) -> None:
    story = BigRoom(name)
    old = dict(story.begun)
    story.send(old, "old", BOB, TOPIC)
    story.levels(story.begun, "newer", ALICE, bob=50, carol=60)
    story.base[LEVELS] = EventId("newer")
    old[LEVELS] = EventId("newer")
    new = dict(story.begun)
    story.send(new, "new", CAROL, TOPIC)
    assert story.resolve_overlays(old, new) == {TOPIC: "new"}
    assert len(story.lookups) < 300


@pytest.mark.parametrize("name", ROOM_VERSIONS)
def test_equal_overlays_are_the_result(name: str) -> None:
    story = BigRoom(name)
    topic, no_rules = EventId("nobody has this event"), {RULES: None}
    both = {TOPIC: topic, **no_rules, CREATE: story.base[CREATE]}
    assert resolve_overlays(story.version, story.base, [both, dict(both)], story.find, create=story.create) == {
        TOPIC: topic,
        RULES: None,
    }
    assert resolve_overlays(story.version, story.base, [{}, {}], story.find, create=story.create) == {}
    gone = resolve_overlays(story.version, story.begun, [], story.find, create=story.create)
    assert gone == dict.fromkeys(story.begun)
