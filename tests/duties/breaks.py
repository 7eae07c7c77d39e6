"""Thirty duties with status "done" in `tests/duties.tsv`, each with a source change that breaks it.

They were drawn with `random.Random("breakable duties").sample(<the 86 that were done then>, 30)`. A change is a piece
of the source and its replacement.
"""

from typing import NamedTuple

_SYNC = "tests/workers/synchrotron/"
_API = "tests/workers/client_api/"
_PERSISTER = "tests/workers/event_persister/"


class Break(NamedTuple):
    duty: str
    file: str
    old: str
    new: str
    test: str


BREAKS = (
    Break(
        "D043",
        "shared/http/guests.py",
        "endpoint.name not in GUESTS_MAY",
        "not endpoint.name",
        "tests/architecture/test_guests.py::test_guests_can_call_only_the_listed_endpoints",
    ),
    Break(
        "D049",
        "workers/synchrotron/sections/timeline.py",
        "len(passing) > len(shown):\n        limited = True",
        "len(passing) > len(shown):\n        limited = False",
        _SYNC + "test_sync.py::test_gap_state_and_prev_batch",
    ),
    Break(
        "D050",
        "workers/synchrotron/sections/timeline.py",
        "dict.fromkeys(event.sender for event in timeline.shown)",
        "dict.fromkeys(event.sender for event in timeline.shown[:0])",
        _SYNC + "test_room_section.py::test_members_that_lazy_loading_needs",
    ),
    Break(
        "D052",
        "workers/synchrotron/sections/room_sections.py",
        "self._unread.of(user, room, end)",
        "self._unread.of(user, room, end - 1)",
        _SYNC + "test_unread.py::test_the_count_comes_with_its_event_and_costs_no_query",
    ),
    Break(
        "D053",
        "workers/event_persister/room/room_push.py",
        'self._note_thread(event_id, threads.get(event_id, ""))',
        'self._note_thread(event_id, "")',
        _PERSISTER + "test_push.py::test_thread_is_found_over_three_relations",
    ),
    Break(
        "D054",
        "shared/core/filters/event_filter.py",
        "if sender in self.not_senders:",
        "if not sender:",
        "tests/core/test_filters.py::test_exclusion_wins_and_empty_lists_match_nothing",
    ),
    Break(
        "D055",
        "workers/synchrotron/classic/sync_response.py",
        "if one.room_id not in forgotten]",
        "if one.room_id]",
        _SYNC + "test_sync.py::test_invite_reject_leave_kick_and_forget",
    ),
    Break(
        "D058",
        "workers/synchrotron/users/sync_user.py",
        "return sender in self.ignored_users or (",
        "return (",
        _SYNC + "test_ignored.py::test_invites_of_the_ignored_are_hidden",
    ),
    Break(
        "D063",
        "workers/client_api/user_data/account_data.py",
        "if type_ in _MANAGED:",
        "if not type_:",
        _API + "test_account_data.py::test_account_data",
    ),
    Break(
        "D065",
        "shared/rooms/shown_event.py",
        "_membership(view.membership_after(event))",
        '_membership(view.membership_before(event) or "leave")',
        _SYNC + "test_unsigned.py::test_membership_of_the_viewer_at_each_event",
    ),
    Break(
        "D066",
        "shared/rooms/shown_event.py",
        "if view.may_see_place(event.previous.ordinal):",
        "if True:",
        _SYNC + "test_unsigned.py::test_what_was_there_before_is_told_to_whoever_could_see_it",
    ),
    Break(
        "D068",
        "shared/rooms/viewpoint.py",
        "membership_after=event.membership if own else None,",
        "membership_after=None,",
        _SYNC + "test_viewpoint.py::test_every_event_of_every_history",
    ),
    Break(
        "D072",
        "workers/synchrotron/room_reads/messages.py",
        '"end": format_place(*point_after(last.place)),',
        '"end": format_place(*event.place),',
        _SYNC + "test_room_reads.py::test_context_and_event",
    ),
    Break(
        "D075",
        "workers/synchrotron/room_reads/event_by_timestamp.py",
        "if closer and room.view.may_see(event):",
        "if closer:",
        _SYNC + "test_room_reads.py::test_the_event_nearest_to_a_time",
    ),
    Break(
        "D077",
        "shared/core/events/format.py",
        "if len(encoded) > MAX_EVENT_BYTES:",
        "if len(encoded) > 2 * MAX_EVENT_BYTES:",
        "tests/core/test_events.py::test_whole_event_is_limited_to_65536_bytes",
    ),
    Break(
        "D078",
        "shared/core/canonical_json.py",
        "elif kind is float:\n            raise EventFormatError",
        "elif kind is complex:\n            raise EventFormatError",
        _PERSISTER + "test_state_and_redaction.py::test_invalid_message_contents_are_refused",
    ),
    Break(
        "D082",
        "workers/event_persister/writing/refusals.py",
        "if any(alias not in pointing_here for alias in new):",
        "if not all(alias not in pointing_here for alias in new):",
        _PERSISTER + "test_state_and_redaction.py::test_canonical_alias_must_point_to_the_room",
    ),
    Break(
        "D093",
        "workers/client_api/people/member_profiles.py",
        "await self._set_profile(room_id, change)",
        "_ = change",
        _API + "test_profiles.py::test_a_new_name_reaches_all_rooms",
    ),
    Break(
        "D094",
        "workers/client_api/people/profiles.py",
        "if not within_bytes(key, MAX_KEY_BYTES):",
        "if not key:",
        _API + "test_profiles.py::test_profile_fields",
    ),
    Break(
        "D097",
        "workers/client_api/rooms/reports.py",
        " or other == request.user.user_id",
        "",
        _API + "test_reports.py::test_mutual_rooms",
    ),
    Break(
        "D098",
        "workers/synchrotron/finding/public_rooms.py",
        "room.room_type not in wanted.room_types:",
        "not wanted.room_types:",
        _SYNC + "test_finding_rooms.py::test_the_directory_is_searched",
    ),
    Break(
        "D101",
        "workers/synchrotron/finding/room_summaries.py",
        "children.sort(key=child_order)",
        "children.sort(key=child_order, reverse=True)",
        _SYNC + "test_finding_rooms.py::test_a_tree_with_loops_in_pages",
    ),
    Break(
        "D107",
        "workers/synchrotron/room_reads/relations.py",
        "for _ in range(_DEPTH):",
        "for _ in range(1):",
        _SYNC + "test_relations.py::test_pages_of_relations",
    ),
    Break(
        "D112",
        "shared/core/push_rules/evaluation.py",
        "for rule in self._rules:\n            if _holds(rule.room_tests, event",
        "for rule in reversed(self._rules):\n            if _holds(rule.room_tests, event",
        "tests/core/push_rules/test_evaluation.py::test_evaluation_follows_the_rules_as_shown",
    ),
    Break(
        "D114",
        "shared/core/push_rules/validation.py",
        '_HISTORICAL = ("dont_notify", "coalesce")',
        "_HISTORICAL = ()",
        _API + "test_push_rules.py::test_default_rules_are_enabled_disabled_and_given_other_actions",
    ),
    Break(
        "D120",
        "workers/synchrotron/sections/room_extras.py",
        'if receipt.kind == "m.read" or receipt.user_id == user_id:',
        "if receipt:",
        _SYNC + "test_sync.py::test_receipts_typing_and_account_data",
    ),
    Break(
        "D121",
        "workers/client_api/rooms/receipts.py",
        "if threads.get(event_id, MAIN_THREAD) != thread_id:",
        "if not threads and not thread_id:",
        _API + "test_reading.py::test_receipts",
    ),
    Break(
        "D124",
        "shared/core/presence.py",
        "if ONLINE in states and idle_ms < IDLE_AFTER_MS:",
        "if ONLINE in states:",
        "tests/core/test_presence.py::test_user_is_idle_after_five_minutes_until_any_activity",
    ),
    Break(
        "D204",
        "workers/client_api/user_data/account_data.py",
        'if request.params["userId"] != request.user.user_id:',
        'if not request.params["userId"]:',
        _API + "test_account_data.py::test_account_data",
    ),
    Break(
        "D214",
        "workers/synchrotron/room_reads/messages.py",
        "if page.more or (",
        "if page or (",
        _SYNC + "test_room_reads.py::test_pages_in_both_directions",
    ),
)
