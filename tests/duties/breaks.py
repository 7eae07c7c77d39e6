"""Thirty duties with status "done" in `tests/duties.tsv`, each with a change that breaks it.

They were drawn with `random.Random("breakable duties").sample(<the 86 that were done then>, 30)`. A change names a
symbol and its replacement: another value, or a function around the present one. So it holds as long as the symbol keeps
its meaning, however the code is written.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from shared.core.errors import EventFormatError
from shared.http.request import json_response

_SYNC = "tests/workers/synchrotron/"
_API = "tests/workers/client_api/"
_PERSISTER = "tests/workers/event_persister/"


class Break(NamedTuple):
    """symbol: module:name or module:class.name. change: returns the replacement of the present value."""

    duty: str
    symbol: str
    change: Callable[[Any], Any]
    test: str


def instead(value: Any) -> Callable[[Any], Any]:
    """Replace the symbol by a value."""
    return lambda present: value


def around(call: Callable[..., Any]) -> Callable[[Any], Any]:
    """Replace a function. The new one gets the present one, then the arguments."""

    def change(present: Any) -> Any:
        @functools.wraps(present)  # with what decorators left on it, such as the record of an endpoint
        def broken(*args: Any, **kwargs: Any) -> Any:
            return call(present, *args, **kwargs)

        return broken

    return change


class _Everything:
    def __contains__(self, value: object) -> bool:
        return True


class _Anybody(str):
    """A user id that equals every other."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True


@functools.total_ordering
class _Backward:
    """Sorts in the opposite order."""

    def __init__(self, key: Any) -> None:
        self.key = key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Backward) and self.key == other.key

    def __lt__(self, other: "_Backward") -> bool:
        return bool(other.key < self.key)

    __hash__ = None  # type: ignore[assignment]


def _is_not_limited(present: Any, *args: Any, **kwargs: Any) -> Any:
    return dataclasses.replace(present(*args, **kwargs), limited=False)


def _without_senders(present: Any, timeline: Any, *args: Any) -> Any:
    return present(dataclasses.replace(timeline, shown=[]), *args)


async def _one_event_late(present: Any, self: Any, user: Any, room: Any, end: int) -> Any:
    return await present(self, user, room, end - 1)


def _in_no_thread(present: Any, self: Any, event_ids: Any, threads: Any) -> None:
    present(self, event_ids, {})


def _excludes_no_sender(present: Any, self: Any, **event: Any) -> Any:
    return present(dataclasses.replace(self, not_senders=frozenset()), **event)


def _shows_invites_of_the_ignored(present: Any, self: Any, sender: str) -> Any:
    return sender not in self.ignored_users and present(self, sender)


def _is_the_membership_before(present: Any, self: Any, event: Any) -> Any:
    return self.membership_before(event) or "leave"


def _sees(present: Any, *args: Any) -> bool:
    return True


def _overlooks_the_own_event(present: Any, *args: Any, **kwargs: Any) -> Any:
    return present(*args, **{**kwargs, "membership_after": None})


def _stays_at_the_event(present: Any, point: Any) -> Any:
    return point


def _lets_fractions_pass(present: Any, value: Any) -> None:
    try:
        present(value)
    except EventFormatError as error:
        if "must be integers" not in str(error):
            raise


def _takes_every_alias(present: Any, new: Any, pointing_here: Any) -> None:
    present(new, new)


async def _does_nothing(present: Any, *args: Any) -> None:
    return None


async def _has_rooms_in_common_with_oneself(present: Any, self: Any, request: Any) -> Any:
    if request.query_required("user_id") == request.user.user_id:
        return json_response({"joined": [], "count": 0})
    return await present(self, request)


def _finds_every_type(present: Any, wanted: Any, room: Any) -> Any:
    return present(msgspec.structs.replace(wanted, room_types=None), room)


def _sorts_backward(present: Any, child: Any) -> Any:
    return _Backward(present(child))


def _tries_the_last_rule_first(present: Any, self: Any, *args: Any) -> Any:
    rules = self._rules
    self._rules = tuple(reversed(rules))
    try:
        return present(self, *args)
    finally:
        self._rules = rules


def _shows_private_receipts(present: Any, room: Any, user_id: str, *args: Any, **kwargs: Any) -> Any:
    return present(room, _Anybody(user_id), *args, **kwargs)


def _is_the_requester(present: Any, request: Any) -> Any:
    return request.user.user_id


async def _is_wrong_about_more(present: Any, *args: Any, **kwargs: Any) -> Any:
    page = await present(*args, **kwargs)
    return dataclasses.replace(page, more=not page.more)


BREAKS = (
    Break("D043", "shared.http.guests:GUESTS_MAY", instead(_Everything()),
          "tests/architecture/test_guests.py::test_guests_can_call_only_the_listed_endpoints"),
    Break("D049", "workers.synchrotron.sections.timeline:cut_timeline", around(_is_not_limited),
          _SYNC + "test_sync.py::test_gap_state_and_prev_batch"),
    Break("D050", "workers.synchrotron.sections.timeline:needed_members", around(_without_senders),
          _SYNC + "test_room_section.py::test_members_that_lazy_loading_needs"),
    Break("D052", "workers.synchrotron.users.unread_counts:UnreadCounts.of", around(_one_event_late),
          _SYNC + "test_unread.py::test_count_comes_with_its_event_and_costs_no_query"),
    Break("D053", "workers.event_persister.room.room_push:RoomPush.take_threads", around(_in_no_thread),
          _PERSISTER + "test_push.py::test_thread_is_found_over_three_relations"),
    Break("D054", "shared.core.filters.event_filter:EventFilter.match", around(_excludes_no_sender),
          "tests/core/test_filters.py::test_exclusion_wins_and_empty_lists_match_nothing"),
    Break("D055", "workers.synchrotron.users.user_cache:UserCache.learn_forgotten",
          around(_does_nothing), _SYNC + "test_sync.py::test_invite_reject_leave_kick_and_forget"),
    Break("D058", "workers.synchrotron.users.sync_user:SyncUser.hides_invites_of",
          around(_shows_invites_of_the_ignored),
          _SYNC + "test_ignored.py::test_invitations_by_ignored_users_are_hidden"),
    Break("D063", "workers.client_api.user_data.account_data:_MANAGED", instead(frozenset()),
          _API + "test_account_data.py::test_account_data_is_stored_by_type_and_room"),
    Break("D065", "shared.rooms.viewpoint:Viewpoint.membership_after", around(_is_the_membership_before),
          _SYNC + "test_unsigned.py::test_membership_of_the_reader_at_each_event"),
    Break("D066", "shared.rooms.viewpoint:Viewpoint.may_see_at", around(_sees),
          _SYNC + "test_unsigned.py::test_prev_content_is_for_users_who_could_see_it"),
    Break("D068", "shared.rooms.viewpoint:may_see", around(_overlooks_the_own_event),
          _SYNC + "test_viewpoint.py::test_visibility_of_every_event_of_every_history"),
    Break("D072", "workers.synchrotron.room_reads.messages:point_after", around(_stays_at_the_event),
          _SYNC + "test_room_reads.py::test_context_and_event"),
    Break("D075", "shared.rooms.viewpoint:Viewpoint.may_see", around(_sees),
          _SYNC + "test_room_reads.py::test_nearest_event_to_a_timestamp"),
    Break("D077", "shared.core.events.format:MAX_EVENT_BYTES", instead(1 << 17),
          "tests/core/test_events.py::test_whole_event_is_limited_to_65536_bytes"),
    Break("D078", "shared.core.canonical_json:check_strict_numbers", around(_lets_fractions_pass),
          _PERSISTER + "test_state_and_redaction.py::test_invalid_message_contents_are_refused"),
    Break("D082", "workers.event_persister.writing.refusals:check_aliases", around(_takes_every_alias),
          _PERSISTER + "test_state_and_redaction.py::test_canonical_alias_must_point_to_the_room"),
    Break("D093", "workers.client_api.people.member_profiles:MemberProfileSender._send", around(_does_nothing),
          _API + "test_profiles.py::test_profile_change_reaches_all_joined_rooms"),
    Break("D094", "workers.client_api.people.profiles:MAX_KEY_BYTES", instead(1 << 20),
          _API + "test_profiles.py::test_profile_fields_are_stored_and_validated"),
    Break("D097", "workers.client_api.rooms.reports:Reports.list_mutual_rooms",
          around(_has_rooms_in_common_with_oneself), _API + "test_reports.py::test_mutual_rooms_are_paged"),
    Break("D098", "workers.synchrotron.finding.public_rooms:_matches", around(_finds_every_type),
          _SYNC + "test_finding_rooms.py::test_directory_is_filtered"),
    Break("D101", "workers.synchrotron.finding.room_summaries:child_order", around(_sorts_backward),
          _SYNC + "test_finding_rooms.py::test_hierarchy_with_loops_comes_in_pages"),
    Break("D107", "workers.synchrotron.room_reads.relations:_DEPTH", instead(1),
          _SYNC + "test_relations.py::test_relations_come_in_pages"),
    Break("D112", "shared.core.push_rules.evaluation:RoomRules.evaluate", around(_tries_the_last_rule_first),
          "tests/core/push_rules/test_evaluation.py::test_evaluation_follows_the_rules_as_shown"),
    Break("D114", "shared.core.push_rules.validation:_HISTORICAL", instead(()),
          _API + "test_push_rules.py::test_default_rules_take_other_actions_and_are_disabled"),
    Break("D120", "workers.synchrotron.sections.room_extras:new_receipts", around(_shows_private_receipts),
          _SYNC + "test_sync.py::test_receipts_typing_and_account_data"),
    Break("D121", "workers.client_api.rooms.receipts:Receipts._check_thread", around(_does_nothing),
          _API + "test_reading.py::test_receipts_only_move_forward"),
    Break("D124", "shared.core.presence:IDLE_AFTER_MS", instead(1 << 50),
          "tests/core/test_presence.py::test_user_is_idle_after_five_minutes_until_any_activity"),
    Break("D204", "workers.client_api.user_data.account_data:own_user_id", around(_is_the_requester),
          _API + "test_account_data.py::test_account_data_is_stored_by_type_and_room"),
    Break("D214", "shared.rooms.history_page:HistoryPages.back", around(_is_wrong_about_more),
          _SYNC + "test_room_reads.py::test_pages_in_both_directions"),
)  # fmt: skip
