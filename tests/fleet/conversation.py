"""A planned conversation of many people in many rooms, and a record of what the server acknowledged.

Each room passes through the same acts. All rooms run at once, up to a limit:

1. The creator makes the room and invites guests. Some rooms are public and have an alias.
2. The guests see the invitation and join. One declines.
3. All members send the first half of the messages at once, with redactions, typing and retransmissions.
4. One member leaves, and in half of the rooms forgets the room. Another is invited and joins. The topic changes.
5. The members send the second half. The creator sends a farewell, and all members read up to it.

A Ledger records what the server acknowledged; `tests/fleet/conversation_check.py` compares it with the clients' views.
"""

import asyncio
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.corpus import messages
from tests.fleet.clients.chat_client import ChatClient

ROOM_VERSIONS = ("10", "12")

#: Generous, for a busy machine: a step that takes longer is broken, not slow.
WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of a conversation.

    users: half of them with each client
    rooms_at_once: rooms that are active at the same time
    nio_timeline, js_timeline: the most events of a room in one /sync

    nio's limit is so small that it meets gaps and must page them in. matrix-js-sdk drops a room's events at a gap and
    then fails to match the answer to a pending send with its event. That is a fault of the sdk and is not tested here.
    """

    users: int
    rooms: int
    messages: int
    rooms_at_once: int
    nio_timeline: int = 6
    js_timeline: int = 100
    guests: int = 5


@dataclass(frozen=True, slots=True)
class Cast:
    """The parts in one room. Each client plays at most one."""

    number: int
    version: str
    public: bool
    creator: ChatClient
    guests: tuple[ChatClient, ...]
    decliner: ChatClient
    leaver: ChatClient
    newcomer: ChatClient

    @property
    def leaver_forgets(self) -> bool:
        return self.number % 4 < 2

    @property
    def staying(self) -> tuple[ChatClient, ...]:
        return (self.creator, *self.guests, self.newcomer)


@dataclass(slots=True)
class Ledger:
    """The events that the server acknowledged in one room."""

    cast: Cast
    room: str
    #: sender's user id -> (event id, body), in the order of sending
    sent: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    redacted: set[str] = field(default_factory=set)
    topics: list[str] = field(default_factory=list)
    farewell: str = ""

    def note(self, sender: ChatClient, event: str, body: str) -> None:
        self.sent.setdefault(sender.user_id, []).append((event, body))


def plan(clients: Sequence[ChatClient], scale: Scale, seed: int) -> list[Cast]:
    """Assign the parts. Creators alternate between both kinds of client and both room versions, in all combinations."""
    chance = random.Random(seed)
    casts = []
    for number in range(scale.rooms):
        creator = clients[number % len(clients)]
        # The first guest uses the other kind of client, so that each room has both kinds to the end.
        first = chance.choice([client for client in clients if type(client) is not type(creator)])
        rest = [client for client in clients if client not in (creator, first)]
        others = [first, *chance.sample(rest, scale.guests + 2)]
        guests = tuple(others[: scale.guests])
        version = ROOM_VERSIONS[(number // 2) % 2]
        casts.append(Cast(number, version, number % 3 == 0, creator, guests, *others[scale.guests :]))
    return casts


async def hold(casts: Sequence[Cast], scale: Scale) -> list[Ledger]:
    """Play all rooms; return their ledgers."""
    places = asyncio.Semaphore(scale.rooms_at_once)
    share = scale.messages // len(casts)

    async def play(cast: Cast) -> Ledger:
        async with places:
            return await _play(cast, share)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(play(cast)) for cast in casts]
    return [task.result() for task in tasks]


async def _play(cast: Cast, share: int) -> Ledger:
    texts = messages(cast.number)
    ledger = await _gather_people(cast, texts)
    half = share // 2
    await _everybody_talks(ledger, (cast.creator, *cast.guests, cast.leaver), half, texts)
    await _people_change(ledger, texts)
    await _show_typing(ledger)
    await _everybody_talks(ledger, cast.staying, share - half - 1, texts)
    farewell = next(texts)
    ledger.farewell = await cast.creator.send(ledger.room, farewell, f"farewell-{cast.number}")
    ledger.note(cast.creator, ledger.farewell, farewell)
    await asyncio.gather(*(client.send_receipt(ledger.room, ledger.farewell) for client in cast.staying))
    return ledger


async def _gather_people(cast: Cast, texts: Iterator[str]) -> Ledger:
    topic = next(texts)
    options = {
        "room_version": cast.version,
        "preset": "public_chat" if cast.public else "private_chat",
        "name": f"Room {cast.number} 🐝",
        "topic": topic,
        "invite": [client.user_id for client in (cast.decliner, cast.leaver, *(() if cast.public else cast.guests))],
    }
    if cast.public:
        options["room_alias_name"] = alias = f"{cast.creator.username}-röom-{cast.number}"
    room = await cast.creator.create_room(options)

    async def join(guest: ChatClient) -> None:
        if cast.public and guest is not cast.leaver:
            assert await guest.join(f"#{alias}:{guest.user_id.partition(':')[2]}") == room
        else:
            await guest.wait_membership(room, "invite", WAIT_S)
            await guest.join(room)
        await guest.wait_membership(room, "join", WAIT_S)

    async def decline(guest: ChatClient) -> None:
        await guest.wait_membership(room, "invite", WAIT_S)
        await guest.leave(room)

    await asyncio.gather(decline(cast.decliner), *(join(guest) for guest in (*cast.guests, cast.leaver)))
    return Ledger(cast, room, topics=[topic])


async def _everybody_talks(ledger: Ledger, people: Sequence[ChatClient], count: int, texts: Iterator[str]) -> None:
    shares = [count // len(people) + (place < count % len(people)) for place in range(len(people))]
    lines = [list(itertools.islice(texts, share)) for share in shares]
    await asyncio.gather(*(_talk(ledger, who, said) for who, said in zip(people, lines, strict=True)))


async def _talk(ledger: Ledger, who: ChatClient, lines: Sequence[str]) -> None:
    """Send the lines in turn. The second line is sent twice at once, the third again after its answer."""
    for number, body in enumerate(lines):
        transaction = f"{ledger.room}-{len(ledger.sent.get(who.user_id, ()))}"
        if number == 1:
            # Both go past the library, which cannot handle the echo of an event that it has not sent yet.
            event, same = await asyncio.gather(*(who.send_again(ledger.room, body, transaction) for _ in range(2)))
            assert same == event, "two requests with one transaction id made two events"
        else:
            event = await who.send(ledger.room, body, transaction)
        ledger.note(who, event, body)
        if number == 2:
            assert await who.send_again(ledger.room, body, transaction) == event
            await who.redact(ledger.room, event)
            ledger.redacted.add(event)


async def _people_change(ledger: Ledger, texts: Iterator[str]) -> None:
    cast, room = ledger.cast, ledger.room

    async def leave() -> None:
        await cast.leaver.leave(room)
        await cast.leaver.wait_membership(room, "leave", WAIT_S)
        if cast.leaver_forgets:
            await cast.leaver.forget(room)

    async def arrive() -> None:
        await cast.creator.invite(room, cast.newcomer.user_id)
        await cast.newcomer.wait_membership(room, "invite", WAIT_S)
        await cast.newcomer.join(room)
        await cast.newcomer.wait_membership(room, "join", WAIT_S)

    async def rename() -> None:
        for topic in itertools.islice(texts, 2):
            await cast.creator.set_state(room, "m.room.topic", {"topic": topic})
            ledger.topics.append(topic)

    await asyncio.gather(leave(), arrive(), rename())


async def _show_typing(ledger: Ledger) -> None:
    """The creator types; a guest with the other kind of client sees it begin and end."""
    who, watcher = ledger.cast.creator, ledger.cast.guests[0]
    await who.set_typing(ledger.room, True)
    await watcher.wait_typing(ledger.room, who.user_id, True, WAIT_S)
    await who.set_typing(ledger.room, False)
    await watcher.wait_typing(ledger.room, who.user_id, False, WAIT_S)
