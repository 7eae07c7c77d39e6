"""Spec: client-server API, POST /account/deactivate, `erase`; "Room history visibility"."""

from itertools import product

import pytest

from shared.core.visibility import ShownForm, may_see, shown_form

WHOLE, REDACTED, HIDDEN = ShownForm.WHOLE, ShownForm.REDACTED, ShownForm.HIDDEN


@pytest.mark.parametrize(
    ("visibility", "membership", "joined_since", "joined_before_erasure", "form"),
    [
        # in the room with the event
        ("shared", "join", True, True, WHOLE),
        ("joined", "join", True, False, WHOLE),
        ("world_readable", "join", True, False, WHOLE),
        # joined between the event and the erasure, so the event was visible
        ("shared", None, True, True, WHOLE),
        ("invited", "invite", True, True, WHOLE),
        ("world_readable", "leave", True, True, WHOLE),
        # joined after the erasure
        ("shared", None, True, False, REDACTED),
        ("shared", "leave", True, False, REDACTED),
        ("invited", "invite", True, False, REDACTED),
        ("world_readable", None, True, False, REDACTED),
        # never joined
        ("world_readable", None, False, False, REDACTED),
        ("invited", "invite", False, False, REDACTED),
        # never visible to them
        ("shared", None, False, False, HIDDEN),
        ("joined", None, True, True, HIDDEN),
        ("joined", "invite", True, True, HIDDEN),
        ("invited", None, True, True, HIDDEN),
    ],
)
def test_form_of_events_of_erased_senders(
    visibility: str, membership: str | None, joined_since: bool, joined_before_erasure: bool, form: ShownForm
) -> None:
    def shown(sender_erased: bool) -> ShownForm:
        return shown_form(
            visibility,
            membership,
            joined_since,
            sender_erased=sender_erased,
            joined_before_erasure=joined_before_erasure,
        )

    assert shown(True) is form
    assert shown(False) is (HIDDEN if form is HIDDEN else WHOLE)


def test_own_join_is_shown_whole() -> None:
    """The viewer's own events are not those of the erased sender, but an invite before their join is the sender's."""
    assert shown_form("joined", None, True, sender_erased=True, membership_after="join") is WHOLE
    assert shown_form("invited", None, True, sender_erased=True, membership_after="invite") is REDACTED


def test_erasure_neither_hides_nor_reveals_events() -> None:
    for visibility, membership, since, before, erased, after in product(
        ("world_readable", "shared", "invited", "joined", "odd"),
        (None, "join", "invite", "leave", "ban", "knock"),
        (False, True),
        (False, True),
        (False, True),
        (None, "world_readable", "joined"),
    ):
        form = shown_form(
            visibility, membership, since, sender_erased=erased, joined_before_erasure=before, visibility_after=after
        )
        assert (form is not HIDDEN) is may_see(visibility, membership, since, visibility_after=after)
        assert erased or form is not REDACTED
