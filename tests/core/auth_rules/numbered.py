"""The rules with the numbers of each room version's page, as data: version -> number -> rule.

They were read from the spec's prose (rooms/v1 to v12, "Authorisation rules"), not from the code under test. Version 1
is complete, and each later version is a change of the previous one. A rule keeps its name when its number moves.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum


class Does(Enum):
    """The effect of a rule on an event. Most have one side only; then a case shows the event that passes it."""

    REJECTS = "rejects"  # "if ..., reject", "otherwise, reject"
    ALLOWS = "allows"  # "if ..., allow", "otherwise, allow"; other events continue with the next rules
    DECIDES = "decides"  # "allow if and only if"
    HEADS = "heads"  # only says to which events the rules below it apply


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule. name: the same in every version. text: a short form of the spec's text."""

    name: str
    does: Does
    text: str


Table = Mapping[str, Rule]

_LETTERS = {"-": Does.REJECTS, "+": Does.ALLOWS, "=": Does.DECIDES, "#": Does.HEADS}


def _rules(listing: str) -> dict[str, Rule]:
    """Parse lines of number, name, effect ("-" rejects, "+" allows, "=" decides, "#" heads), text."""
    table = {}
    for line in listing.strip().splitlines():
        number, name, letter, text = line.split(maxsplit=3)
        assert number not in table
        table[number] = Rule(name, _LETTERS[letter], text)
    return table


def _moved(table: Table, number: str, by: int) -> dict[str, Rule]:
    """Return the rules from this number on, at its level and below, with their numbers moved."""
    parent, _, own = f".{number}".rpartition(".")
    moved = {}
    for old, rule in table.items():
        parts = f".{old}".removeprefix(f"{parent}.").split(".")
        if f".{old}".startswith(f"{parent}.") and int(parts[0]) >= int(own):
            parts[0] = str(int(parts[0]) + by)
            old = f"{parent}.{'.'.join(parts)}"[1:]
        moved[old] = rule
    return moved


def _is_in(number: str, top: str) -> bool:
    return number == top or number.startswith(f"{top}.")


def _without(table: Table, number: str) -> dict[str, Rule]:
    """Remove a rule and its sub-rules. The rules after it move up."""
    return _moved({old: rule for old, rule in table.items() if not _is_in(old, number)}, number, -1)


def _with(table: Table, listing: str) -> dict[str, Rule]:
    """Insert a rule and its sub-rules at the listing's first number. The rules after it move down."""
    added = _rules(listing)
    return {**_moved(table, next(iter(added)), +1), **added}


def _reworded(table: Table, **texts: str) -> dict[str, Rule]:
    """Give rules a new text. texts: by name, with "__" for "."."""
    new = {name.replace("__", "."): text for name, text in texts.items()}
    assert new.keys() <= {rule.name for rule in table.values()}
    return {number: replace(rule, text=new.get(rule.name, rule.text)) for number, rule in table.items()}


_V1 = _rules("""
1         create                          # m.room.create
1.1       create.prev_events              - it has previous events
1.2       create.room_id                  - the room id is of another server than the sender
1.3       create.room_version             - it names a version that nobody knows
1.4       create.creator                  - it names no creator
1.5       create.otherwise                + everything else
2         auth_events                     # what the event's auth events must be
2.1       auth_events.duplicate           - two of them have one type and state key
2.2       auth_events.selection           - one of them is not among those to select
2.3       auth_events.rejected            - one of them was itself rejected
2.4       auth_events.create              - the create event is not among them
2.5       auth_events.room                - one of them is of another room
3         federate                        - m.federate is false, and the sender is not of the creator's server
4         aliases                         # m.room.aliases
4.1       aliases.state_key               - it has no state key
4.2       aliases.server                  - its state key is not the sender's server
4.3       aliases.otherwise               + everything else, whether the sender is in the room or not
5         member                          # m.room.member
5.1       member.form                     - no state key, or no membership
5.2       join                            # membership join
5.2.1     join.first                      + the creator's own, straight after the create event
5.2.2     join.other                      - sent by another than the user who would join
5.2.3     join.banned                     - the sender is banned
5.2.4     join.invited                    + join rule invite, and the user is invited or in the room
5.2.5     join.public                     + join rule public
5.2.6     join.otherwise                  - everything else
5.3       invite                          # membership invite
5.3.1     third_party                     # the content has third_party_invite
5.3.1.1   third_party.banned              - the invited user is banned
5.3.1.2   third_party.signed              - signed is missing
5.3.1.3   third_party.properties          - mxid or token is missing in signed
5.3.1.4   third_party.mxid                - mxid is not the state key
5.3.1.5   third_party.original            - no m.room.third_party_invite has the token as its state key
5.3.1.6   third_party.sender              - that one has another sender
5.3.1.7   third_party.signature           + a signature is by one of its public keys
5.3.1.7.1 third_party.public_key          + the key in public_key is one of them
5.3.1.7.2 third_party.public_keys         + those in public_keys are
5.3.1.8   third_party.otherwise           - everything else
5.3.2     invite.sender                   - the sender is not in the room
5.3.3     invite.target                   - the invited user is in the room, or banned
5.3.4     invite.level                    + the sender has the invite level
5.3.5     invite.otherwise                - everything else
5.4       leave                           # membership leave
5.4.1     leave.own                       = one's own: only from invite or join
5.4.2     leave.sender                    - the sender is not in the room
5.4.3     leave.unban                     - the user is banned, and the sender is below the ban level
5.4.4     leave.kick                      + the sender has the kick level, and more power than the user
5.4.5     leave.otherwise                 - everything else
5.5       ban                             # membership ban
5.5.1     ban.sender                      - the sender is not in the room
5.5.2     ban.level                       + the sender has the ban level, and more power than the user
5.5.3     ban.otherwise                   - everything else
5.6       member.unknown                  - every other membership
6         joined                          - the sender is not in the room
7         third_party_invite              # m.room.third_party_invite
7.1       third_party_invite.level        = only with the invite level
8         level                           - the sender is below the level that the type requires
9         state_key                       - the state key begins with @ and is not the sender
10        power_levels                    # m.room.power_levels
10.1      power_levels.users              - users is no map of user ids to integers, or strings of such
10.2      power_levels.first              + the room has none yet
10.3      properties                      # each of the seven single levels that is added, changed or removed
10.3.1    properties.old                  - it stands above the sender
10.3.2    properties.new                  - it would stand above the sender
10.4      old_entries                     # each entry of events that is changed or removed
10.4.1    old_entries.level               - it stands above the sender
10.5      new_entries                     # each entry of events that is added or changed
10.5.1    new_entries.level               - it would stand above the sender
10.6      old_users                       # each entry of users, but the sender's, that is changed or removed
10.6.1    old_users.level                 - it is not below the sender
10.7      new_users                       # each entry of users that is added or changed
10.7.1    new_users.level                 - it would stand above the sender
10.8      power_levels.otherwise          + everything else
11        redaction                       # m.room.redaction
11.1      redaction.level                 + the sender has the redact level
11.2      redaction.server                + the redacted event's id is of the same server as the redaction's
11.3      redaction.otherwise             - everything else
12        otherwise                       + everything else
""")

_V3 = _without(_V1, "11")

_V6 = _reworded(
    _without(_V3, "4"),
    old_entries="each entry of events or notifications that is changed or removed",
    new_entries="each entry of events or notifications that is added or changed",
)

_V7 = _reworded(
    _with(
        _V6,
        """
4.6   knock            # membership knock
4.6.1 knock.rule       - the join rule is not knock
4.6.2 knock.other      - sent by another than the user who knocks
4.6.3 knock.membership + the user is not banned, invited or in the room
4.6.4 knock.otherwise  - everything else
""",
    ),
    join__invited="join rule invite or knock, and the user is invited or in the room",
    leave__own="one's own: only from invite, join or knock",
)

_V8 = _with(
    _with(
        _V7,
        """
4.2   authorised        # the content has join_authorised_via_users_server
4.2.1 authorised.signed - the server of the user named there has not signed
""",
    ),
    """
4.3.5   restricted            # join rule restricted
4.3.5.1 restricted.invited    + the user is invited or in the room
4.3.5.2 restricted.authorised - the authorising user may not invite or is not in the room
4.3.5.3 restricted.otherwise  + everything else
""",
)

_V10 = _reworded(
    _with(
        _with(_V8, "9.1 power_levels.integers - one of the seven single levels is no integer"),
        "9.2 power_levels.maps - events or notifications is no map to integers",
    ),
    restricted="join rule restricted or knock_restricted",
    knock__rule="the join rule is neither knock nor knock_restricted",
    power_levels__users="users is no map of user ids to integers",
)

_V11 = _reworded(_without(_V10, "1.4"), join__first="the create event's sender's own, straight after it")


def _v12() -> dict[str, Rule]:
    table = _with(_V11, "1.4 create.additional_creators - additional_creators is no list of user ids")
    table = _with(table, "2 room_id - the room id does not name an accepted create event")
    # The page counts 3.1, 3.2, 3.3, 3.5, as if to keep the former number of "another room".
    del table["3.4"]
    # The page has two rules 10.10. The second one ("otherwise, allow") is 10.11 here.
    table = _with(table, "10.4 power_levels.creators - users names a creator")
    return _reworded(table, create__room_id="it has a room id")


RULES: Mapping[str, Table] = {
    **dict.fromkeys(("1", "2"), _V1),
    **dict.fromkeys(("3", "4", "5"), _V3),
    "6": _V6,
    "7": _V7,
    **dict.fromkeys(("8", "9"), _V8),
    "10": _V10,
    "11": _V11,
    "12": _v12(),
}


def number_of(version: str, name: str) -> str:
    """Return the number of a rule on the version's page."""
    return next(number for number, rule in RULES[version].items() if rule.name == name)
