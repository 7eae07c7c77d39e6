"""Spec: client-server API, GET /sync, RoomSummary, `m.heroes`."""

from hypothesis import given
from hypothesis import strategies as st

from shared.core.heroes import ABSENT, MAX_HEROES, PRESENT, Member, heroes_for
from shared.core.identifiers import UserId


def _members(*rows: tuple[str, str]) -> list[Member]:
    return [Member(UserId(user_id), membership, order) for order, (user_id, membership) in enumerate(rows)]


def test_heroes_are_the_first_five_present_members() -> None:
    members = _members(*((f"@{n}", "join" if n % 2 else "invite") for n in range(9)))
    assert heroes_for(UserId("@x"), members) == ["@0", "@1", "@2", "@3", "@4"]
    assert heroes_for(UserId("@2"), reversed(members)) == ["@0", "@1", "@3", "@4", "@5"]


def test_absent_members_are_heroes_only_if_none_is_present() -> None:
    gone = [("@left", "leave"), ("@banned", "ban"), ("@knocking", "knock")]
    assert heroes_for(UserId("@me"), _members(*gone, ("@me", "join"))) == ["@left", "@banned"]
    assert heroes_for(UserId("@me"), _members(*gone, ("@me", "join"), ("@b", "invite"))) == ["@b"]
    assert heroes_for(UserId("@left"), _members(*gone)) == ["@banned"]
    assert heroes_for(UserId("@me"), _members(("@me", "join"))) == []
    assert heroes_for(UserId("@me"), []) == []


_rows = st.lists(
    st.tuples(st.integers(0, 30).map("@{}".format), st.sampled_from(["join", "invite", "leave", "ban", "knock"])),
    unique_by=lambda row: row[0],
)


@given(_rows, st.integers(0, 31).map("@{}".format))
def test_first_six_of_each_group_suffice(rows: list[tuple[str, str]], viewer: UserId) -> None:
    members = _members(*rows)
    first = [
        member
        for group in (PRESENT, ABSENT)
        for member in [each for each in members if each.membership in group][: MAX_HEROES + 1]
    ]
    heroes = heroes_for(viewer, members)
    assert heroes == heroes_for(viewer, first)
    assert viewer not in heroes
    others = [membership for user_id, membership in rows if user_id != viewer]
    present = sum(membership in PRESENT for membership in others)
    absent = sum(membership in ABSENT for membership in others)
    assert len(heroes) == min(MAX_HEROES, present or absent)
