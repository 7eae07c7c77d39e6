"""The other duties with status "done" in `tests/duties.tsv`, each with a change that breaks it.

`make duties` tries them too. CI tries only the thirty that were drawn (`breaks.py`). Duties with several parts have
several breaks, marked by a letter after the duty's id.
"""

import asyncio
import copy
import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from shared.core.errors import forbidden
from shared.core.event_auth.rule_numbers import violation
from shared.core.room_versions import get_room_version
from shared.storage.rooms.aliases import get_user_in_room
from tests.duties.breaks import Break, around, instead

_CORE = "tests/core/"
_SYNC = "tests/workers/synchrotron/"
_API = "tests/workers/client_api/"
_PERSISTER = "tests/workers/event_persister/"


def _in_sql(part: str, other: str) -> Callable[[Any], Any]:
    """Replace a part of a statement's text."""

    def change(present: Any) -> Any:
        if part not in present.sql:
            raise KeyError(part)
        return dataclasses.replace(present, sql=present.sql.replace(part, other))

    return change


def _nothing(present: Any, *args: Any, **kwargs: Any) -> None:
    return None


async def _nothing_later(present: Any, *args: Any, **kwargs: Any) -> None:
    return None


def _true(present: Any, *args: Any, **kwargs: Any) -> bool:
    return True


async def _true_later(present: Any, *args: Any, **kwargs: Any) -> bool:
    return True


def _zero(present: Any, *args: Any, **kwargs: Any) -> float:
    return 0.0


def _unsigned(present: Any, obj: Any, *args: Any) -> Any:
    return obj


def _without_old_keys(present: Any, server_name: str, keys: Any, old_keys: Any, valid_until_ms: int) -> Any:
    return present(server_name, keys, [], valid_until_ms)


def _to_any_certificate(present: Any, requests: Any, *args: Any, **kwargs: Any) -> Any:
    requests._client._tls.check_hostname = False
    return present(requests, *args, **kwargs)


def _no_changes(present: Any, *args: Any) -> Any:
    return {}


async def _empty_later(present: Any, *args: Any, **kwargs: Any) -> Any:
    return {}


async def _without_counts_of_zero(present: Any, *args: Any) -> Any:
    counts, unused, changed = await present(*args)
    return {name: count for name, count in counts.items() if count}, unused, changed


async def _acknowledges_nothing(present: Any, source: Any, user: Any, device: Any, since: Any, *args: Any) -> Any:
    return await present(source, user, device, None, *args)


async def _all_hits(present: Any, self: Any, hits: Any, *args: Any) -> Any:
    await present(self, hits, *args)
    return hits


async def _follows_after_leaving(present: Any, *args: Any) -> Any:
    return dataclasses.replace(await present(*args), follows=True)


def _as_if_not_erased(present: Any, *args: Any, **kwargs: Any) -> Any:
    return present(*args, **{**kwargs, "sender_erased": False})


def _lets_pass(kind: str) -> Callable[..., Any]:
    def check(present: Any, event_type: Any, content: Any) -> None:
        if event_type != kind:
            present(event_type, content)

    return check


def _by_the_newest_rules(present: Any, version: Any, *args: Any) -> Any:
    return present(get_room_version("11"), *args)


def _names_no_creators(present: Any, version: Any, body: Any, creator: Any, invited: Any) -> Any:
    return present(version, body, creator, ())


def _takes_keys_for_others(present: Any, given: Any, known: Any, user_id: Any, device_id: Any) -> Any:
    if isinstance(given, dict) and given:
        user_id, device_id = given.get("user_id"), given.get("device_id")
    return present(given, known, user_id, device_id)


def _splits_without_failures(present: Any, self: Any, user_ids: Any) -> Any:
    return present(self, user_ids)[0], {}


async def _shows_no_profile(present: Any, self: Any, user_id: Any) -> Any:
    await present(self, user_id)
    raise forbidden("Profiles are private")


async def _finds_all_users(present: Any, *args: Any, **kwargs: Any) -> Any:
    return await present(*args, **{**kwargs, "all_users": True})


def _with_depth(present: Any, event: Any, version: Any) -> Any:
    return {**present(event, version), "depth": event.pdu.get("depth")}


def _with_all_keys(present: Any, event: Any) -> Any:
    return dict(event)


def _names_the_viewer(present: Any, viewer: Any, members: Any) -> Any:
    return present("", members)


def _in_one_event(present: Any, *args: Any) -> Any:
    merged: dict[str, Any] = {}
    for event in present(*args):
        merged.update(event["content"])
    return [{"type": "m.receipt", "content": merged}] if merged else []


def _strips_only(present: Any, self: Any, version: Any, redaction: Any) -> None:
    self.strip(version)


def _in_another_order(present: Any, *args: Any) -> Any:
    first, *others = present(*args)
    return [first, *reversed(others)]


def _is_never_direct(present: Any, sender: Any, target: Any, membership: Any, content: Any) -> Any:
    return present(sender, target, membership, {name: each for name, each in content.items() if name != "is_direct"})


def _matches_if_unknown(present: Any, condition: Any) -> Any:
    return present(condition) or (lambda event, recipient: True)


def _backward(present: Any, *args: Any) -> Any:
    return list(reversed(present(*args)))


def _takes_each_id(present: Any, rule_id: Any) -> Any:
    return rule_id


async def _says_nobody_replied(present: Any, *args: Any) -> Any:
    return (await present(*args))[0], False


def _without(field: str) -> Callable[..., Any]:
    def group(present: Any, *args: Any) -> Any:
        return dataclasses.replace(present(*args), **{field: []})

    return group


async def _of_all_participants(present: Any, *args: Any) -> Any:
    return await present(*args[:-1], None)


def _another_key_each_time(present: Any, *args: Any) -> bytes:
    return os.urandom(32)


async def _waits_no_time(present: Any, *args: Any) -> bool:
    await asyncio.sleep(0)
    return False


async def _before_the_timeline(present: Any, self: Any, context: Any, draft: Any) -> None:
    await present(self, dataclasses.replace(context, state_after=False), draft)


async def _ends_if_empty(present: Any, *args: Any, **kwargs: Any) -> Any:
    page = await present(*args, **kwargs)
    return dataclasses.replace(page, more=page.more and bool(page.events))


def _old_default(present: Any, default_version: Any, *args: Any) -> Any:
    return present("6", *args)


def _refuses_who_knocked(present: Any, version: Any, event: Any, state: Any, *args: Any) -> None:
    member = state.get(("m.room.member", event.state_key))
    if member is not None and member.content.get("membership") == "knock":
        raise violation(version, "member/invite", "3", "the user has knocked")
    present(version, event, state, *args)


async def _unless_creator_may_set_state(present: Any, self: Any, user: Any, alias: Any) -> bool:
    room = await get_user_in_room(self._database, alias.room_id, user.user_id)
    return room is not None and await self._may_set_canonical_alias(user.user_id, room)


def _trusts_the_type(present: Any, version: Any, value: Any) -> int:
    return int(value)


async def _without_fallback_types(present: Any, *args: Any) -> Any:
    counts, _, changed = await present(*args)
    return counts, [], changed


async def _without_those_who_left(present: Any, *args: Any) -> Any:
    return (await present(*args))[0], []


async def _also_at_first(present: Any, self: Any, user: Any, span: Any) -> Any:
    return await present(self, user, span) if span.since is not None else ([user.user_id], [])


def _with_low_tombstone(present: Any, *args: Any) -> Any:
    levels = present(*args)
    return {**levels, "events": {**levels["events"], "m.room.tombstone": 50}}


async def _counts_the_ignored(present: Any, events: Any, children: Any, *args: Any, **kwargs: Any) -> Any:
    children.ignored = frozenset()
    return await present(events, children, *args, **kwargs)


async def _is_always_joined(present: Any, *args: Any) -> Any:
    room = await present(*args)
    return None if room is None else dataclasses.replace(room, membership="join")


def _leaves_own_events_unread(present: Any, self: Any, row: Any) -> None:
    row = copy.copy(row)
    row.sender = ""
    present(self, row)


OTHER_BREAKS = (
    Break("D042", "shared.storage.accounts.session_statements:CLOSE_ACCOUNT",
          _in_sql("x.token_hash IS DISTINCT FROM", "false AND x.token_hash IS DISTINCT FROM"),
          _API + "test_deactivation.py::test_deactivation_ends_all_sessions_and_keeps_the_user_name_taken"),
    Break("D044", "workers.event_persister.members.guest_removal:GuestRemoval._start", around(_nothing),
          _PERSISTER + "test_membership.py::test_guests_leave_when_access_ends"),
    Break("D061", "workers.synchrotron.devices.device_section:DeviceSections.keys", around(_without_counts_of_zero),
          _SYNC + "test_to_device_sync.py::test_key_counts_include_the_latest_claim"),
    Break("D062", "shared.storage.encryption.to_device:read_inbox", around(_acknowledges_nothing),
          _SYNC + "test_to_device_sync.py::test_message_wakes_its_device_alone_and_is_deleted_once_acknowledged"),
    Break("D067", "workers.synchrotron.finding.search:Search._visible", around(_all_hits),
          _SYNC + "test_search.py::test_search_finds_only_events_that_the_user_may_see"),
    Break("D069", "shared.core.visibility.history:_allows", around(_true),
          _SYNC + "test_old_clients.py::test_previews_of_rooms"),
    Break("D070", "shared.rooms.room_view:open_room", around(_follows_after_leaving),
          _SYNC + "test_room_reads.py::test_former_member_reads_the_state_of_their_leave"),
    Break("D071", "shared.core.visibility.erasure:shown_form", around(_as_if_not_erased),
          _SYNC + "test_erased_sync.py::test_users_who_join_later_see_erased_senders_redacted"),
    Break("D080", "workers.event_persister.writing.refusals:check_content", around(_lets_pass("m.room.power_levels")),
          _PERSISTER + "test_refusals.py::test_power_levels_as_strings_are_refused"),
    Break("D081", "workers.event_persister.writing.refusals:check_content", around(_lets_pass("m.room.message")),
          _PERSISTER + "test_refusals.py::test_message_without_body_or_msgtype_is_refused"),
    Break("D086", "shared.core.events.redaction:redact_pdu", around(_by_the_newest_rules),
          _CORE + "test_events.py::test_redaction_of_the_spec"),
    Break("D090", "workers.event_persister.creation.first_events:create_content", around(_names_no_creators),
          _PERSISTER + "test_create_room.py::test_trusted_private_chat_gives_invitees_full_power"),
    Break("D125", "workers.client_api.encryption.key_upload:check_identity_keys", around(_takes_keys_for_others),
          _API + "test_device_keys.py::test_malformed_keys_are_refused"),
    Break("D126", "shared.storage.encryption.device_keys:CLAIM_KEYS",
          _in_sql("ORDER BY o.uploaded LIMIT", "ORDER BY o.uploaded DESC LIMIT"),
          _API + "test_device_keys.py::test_one_time_keys_are_claimed_once_in_upload_order"),
    Break("D127", "workers.client_api.encryption.device_keys:DeviceKeys._split", around(_splits_without_failures),
          _API + "test_device_keys.py::test_uploaded_device_keys_are_returned_and_announced"),
    Break("D132", "workers.client_api.accounts.sessions:Sessions.end_devices", around(_nothing_later),
          _API + "test_account.py::test_devices_are_listed_renamed_and_deleted"),
    Break("D060", "workers.synchrotron.users.user_cache:UserCache.apply_device_list",
          around(lambda present, *args: ()),
          _SYNC + "test_device_lists_sync.py::test_trackers_know_the_devices_of_all_users_who_share_a_room"),
    Break("D095", "workers.client_api.people.profiles:Profiles._profile", around(_shows_no_profile),
          _API + "test_profiles.py::test_profile_fields_are_stored_and_validated"),
    Break("D096", "shared.storage.search.user_directory:search_directory", around(_finds_all_users),
          _API + "test_user_directory.py::test_only_visible_users_are_found_at_once"),
    Break("D047", "workers.synchrotron.sections.timeline:unshown_changes", around(_no_changes),
          _SYNC + "test_room_section.py::test_timeline_and_state_lose_nothing"),
    Break("D051", "shared.core.heroes:heroes_for", around(_names_the_viewer),
          _CORE + "test_heroes.py::test_heroes_are_the_first_five_present_members"),
    Break("D057", "shared.core.wire.stripped_state:strip_event", around(_with_all_keys),
          _CORE + "test_stripped_state.py::test_received_stripped_state_is_pruned"),
    Break("D059", "workers.event_persister.members.member_changes:MemberChanges.check_can_be_invited",
          around(_nothing_later), _PERSISTER + "test_membership.py::test_refused_invites"),
    Break("D064", "workers.synchrotron.sections.room_extras:receipt_events", around(_in_one_event),
          _SYNC + "test_sync.py::test_receipts_typing_and_account_data"),
    Break("D079", "shared.core.wire.client_event:client_fields", around(_with_depth),
          _CORE + "test_client_event.py::test_joined_bytes_equal_a_plain_build"),
    Break("D083", "workers.event_persister.writing.refusals:RelationRefusals.check", around(_nothing_later),
          _PERSISTER + "test_refusals.py::test_duplicate_reaction_is_refused"),
    Break("D084", "workers.event_persister.writing.refusals:RelationRefusals.check", around(_nothing_later),
          _PERSISTER + "test_refusals.py::test_thread_in_a_thread_is_refused"),
    Break("D085", "shared.core.events.building:_place_redacts", around(_nothing),
          _CORE + "test_events.py::test_redacts_is_put_where_the_version_has_it"),
    Break("D088", "shared.rooms.timeline_event:TimelineEvent.redact", around(_strips_only),
          _SYNC + "test_sync.py::test_redaction_applies_to_events_in_memory"),
    Break("D089", "workers.event_persister.creation.first_events:first_events", around(_in_another_order),
          _PERSISTER + "test_create_room.py::test_create_room_order_of_events_and_overrides"),
    Break("D092", "workers.event_persister.members.member_changes:member_draft", around(_is_never_direct),
          _PERSISTER + "test_membership.py::test_member_events_carry_the_profile"),
    Break("D099", "workers.event_persister.upgrades.carried_state:SINGLE_TYPES", instead(()),
          _PERSISTER + "test_upgrade.py::test_upgrade_copies_state_to_the_new_room"),
    Break("D100", "workers.client_api.user_data.room_settings:_with_room", around(_nothing),
          _API + "test_deactivation.py::test_room_settings_are_copied_to_the_successor_once"),
    Break("D103", "shared.rooms.aggregations:bundle", around(_empty_later),
          _SYNC + "test_relations.py::test_only_limited_timelines_are_bundled"),
    Break("D104", "shared.rooms.child_groups:_edits", around(_true),
          _SYNC + "test_relations.py::test_edits_threads_and_references_are_bundled"),
    Break("D105", "shared.rooms.aggregations:StoredChildEvents.thread_size", around(_says_nobody_replied),
          _SYNC + "test_relations.py::test_edits_threads_and_references_are_bundled"),
    Break("D106", "shared.rooms.child_groups:group_children", around(_without("references")),
          _SYNC + "test_relations.py::test_edits_threads_and_references_are_bundled"),
    Break("D108", "workers.synchrotron.room_reads.relations:get_thread_roots", around(_of_all_participants),
          _SYNC + "test_relations.py::test_threads_are_ordered_by_their_latest_reply"),
    Break("D109", "workers.synchrotron.finding.search:get_encrypted_rooms", around(_empty_later),
          _SYNC + "test_search.py::test_search_finds_only_events_that_the_user_may_see"),
    Break("D110", "workers.client_api.rooms.reports:may_report_event", around(_true_later),
          _API + "test_reports.py::test_reports_are_stored_and_reveal_nothing"),
    Break("D113", "shared.core.push_rules.conditions:compile_condition", around(_matches_if_unknown),
          _CORE + "push_rules/test_evaluation.py::test_rule_with_unknown_condition_never_matches"),
    Break("D115", "shared.core.push_rules.default_rules:_override_rules", around(_backward),
          _CORE + "push_rules/test_default_rules.py::test_default_rules_are_those_of_the_spec"),
    Break("D116", "shared.core.push_rules.validation:check_new_id", around(_takes_each_id),
          _API + "test_push_rules.py::test_invalid_rules_are_refused"),
    Break("D119", "shared.core.unread.unread_room:UnreadRoom.note_receipt", around(_nothing),
          _SYNC + "test_unread.py::test_receipts_of_every_kind"),
    Break("D122", "workers.client_api.rooms.receipts:Receipts._set_fully_read", around(_nothing_later),
          _API + "test_reading.py::test_fully_read_marker_only_moves_forward"),
    Break("D123", "workers.client_api.rooms.typing_notices:TypingNotices._stop", around(_nothing),
          _API + "test_reading.py::test_typing_ends_after_its_timeout"),
    Break("D076", "workers.synchrotron.finding.room_summaries:may_find", around(_true),
          _SYNC + "test_finding_rooms.py::test_summary_is_for_users_who_may_find_the_room"),
    Break("D007", "shared.http.transaction_key:transaction_key", around(_another_key_each_time),
          _PERSISTER + "test_commits.py::test_retry_with_same_txn_id_returns_first_event"),
    Break("D046", "workers.synchrotron.waiting.notifier:Notifier.wait", around(_waits_no_time),
          _SYNC + "test_sync.py::test_sync_without_updates_waits_for_the_timeout"),
    Break("D048", "workers.synchrotron.sections.room_sections:RoomSections._add_state", around(_before_the_timeline),
          _SYNC + "test_sync.py::test_gap_state_and_prev_batch"),
    Break("D074", "shared.rooms.history_page:HistoryPages.back", around(_ends_if_empty),
          _SYNC + "test_history.py::test_empty_page_is_not_the_end"),
    Break("D091", "workers.client_api.server_facts:_capabilities", around(_old_default),
          _API + "test_server_facts.py::test_versions_capabilities_and_well_known_files_are_served"),
    Break("D155", "workers.synchrotron.sections.timeline:unshown_changes", around(_no_changes),
          _SYNC + "test_resolved_state.py::test_resolved_changes_wake_members_and_are_read_once"),
    Break("D210", "shared.core.event_auth.member:_check_invite", around(_refuses_who_knocked),
          _PERSISTER + "test_membership.py::test_knock_needs_the_join_rule_and_an_invite"),
    Break("D213", "workers.client_api.rooms.aliases:Directory._may_delete", around(_unless_creator_may_set_state),
          _API + "test_directory.py::test_alias_is_deleted_by_its_creator_without_power"),
    Break("D217", "shared.core.events.readers.power_levels:read_level", around(_trusts_the_type),
          _CORE + "test_readers.py::test_readers_never_fail"),
    Break("D042b", "workers.client_api.accounts.deactivation:clear_account", around(_nothing_later),
          _API + "test_deactivation.py::test_erasure_deletes_the_users_data"),
    Break("D059b", "workers.synchrotron.users.sync_user:SyncUser.hides_invites_of", around(_nothing),
          _SYNC + "test_erased_sync.py::test_blocked_invites_are_not_sent"),
    Break("D060b", "workers.synchrotron.devices.device_section:DeviceSections.device_lists",
          around(_without_those_who_left),
          _SYNC + "test_device_lists_sync.py::test_joins_and_leaves_change_device_lists"),
    Break("D060c", "workers.synchrotron.devices.device_section:DeviceSections.device_lists", around(_also_at_first),
          _SYNC + "test_device_lists_sync.py::test_initial_sync_has_no_device_list_changes"),
    Break("D061b", "workers.synchrotron.devices.device_section:DeviceSections.keys", around(_without_fallback_types),
          _SYNC + "test_to_device_sync.py::test_key_counts_include_the_latest_claim"),
    Break("D062b", "workers.synchrotron.devices.device_section:MAX_MESSAGES", instead(10_000),
          _SYNC + "test_to_device_sync.py::test_long_inbox_comes_in_ordered_parts"),
    Break("D067b", "shared.rooms.room_view:RoomView.shows", around(_true),
          _SYNC + "test_room_reads.py::test_state_and_members_of_a_member_and_a_former_one"),
    Break("D090b", "workers.event_persister.creation.first_events:_power_levels", around(_with_low_tombstone),
          _PERSISTER + "test_create_room.py::test_create_room_order_of_events_and_overrides"),
    Break("D125b", "shared.storage.encryption.device_keys:UPLOAD_KEYS",
          _in_sql("(SELECT key_id FROM clash) AS clash", "NULL::text AS clash"),
          _API + "test_device_keys.py::test_one_time_key_id_never_gets_another_content"),
    Break("D126b", "shared.storage.encryption.device_keys:CLAIM_KEYS", _in_sql("SET used = true", "SET used = false"),
          _API + "test_device_keys.py::test_one_time_keys_are_claimed_once_in_upload_order"),
    Break("D126c", "shared.storage.encryption.device_keys:CLAIM_KEYS", _in_sql("FOR UPDATE SKIP LOCKED", ""),
          "tests/storage/test_claims.py::test_locked_key_is_skipped"),
    Break("D051b", "shared.core.heroes:ABSENT", instead(()),
          _CORE + "test_heroes.py::test_absent_members_are_heroes_only_if_none_is_present"),
    Break("D100b", "workers.client_api.user_data.push_rules_writer:PushRulesWriter.copy_room_rules",
          around(_nothing_later), _API + "test_deactivation.py::test_room_settings_are_copied_to_the_successor_once"),
    Break("D105b", "shared.rooms.aggregations:bundle", around(_counts_the_ignored),
          _SYNC + "test_relations.py::test_ignored_users_are_not_counted"),
    Break("D119b", "shared.core.unread.unread_room:UnreadRoom._add", around(_leaves_own_events_unread),
          _SYNC + "test_unread.py::test_own_events_redactions_and_rejoins"),
    Break("D123b", "workers.client_api.rooms.typing_notices:get_user_in_room", around(_is_always_joined),
          _API + "test_reading.py::test_typing_ends_after_its_timeout"),
    Break("D133", "shared.federation.discovery:SRV_SERVICES", instead(()),
          "tests/federation/test_discovery.py::test_well_known_delegates"),
    Break("D134", "shared.federation.discovery:no_well_known_lifetime_s", around(_zero),
          "tests/federation/test_discovery.py::test_failures_are_kept_briefly_and_an_outage_does_not_move_a_server"),
    Break("D135", "shared.federation.requests:ServerRequests.open", around(_to_any_certificate),
          "tests/federation/test_requests.py::test_certificate_of_the_machine_is_not_enough"),
    Break("D136", "shared.federation.request_check:check_request_signature", around(_nothing),
          "tests/workers/federation_reader/test_request_check.py::test_request_that_is_not_rightly_signed_is_refused"),
    Break("D137", "workers.federation_reader.own_server:build_server_keys", around(_without_old_keys),
          "tests/workers/federation_reader/test_own_keys.py::test_keys_are_signed_by_each_and_renewed"),
    Break("D138", "workers.federation_reader.key_notary:sign_json", around(_unsigned),
          "tests/workers/federation_reader/test_key_notary.py::test_keys_are_fetched_and_signed_by_both"),
    Break("D139", "workers.federation_reader.key_notary:_is_fresh", around(_true),
          "tests/workers/federation_reader/test_key_notary.py"
          "::test_keys_are_fetched_again_when_they_should_be_valid_for_longer"),
    Break("D182", "workers.federation_reader.queries:get_profile", around(_nothing_later),
          "tests/workers/federation_reader/test_queries.py::test_profile_is_answered_whole_or_by_field"),
    Break("D183", "workers.client_api.rooms.aliases:ask_server", around(_empty_later),
          "tests/workers/federation_reader/test_asking_elsewhere.py"
          "::test_alias_comes_from_its_server_which_is_named_first"),
)  # fmt: skip

#: Duties that no small change breaks alone -> the reason.
WITHOUT_BREAK: Mapping[str, str] = {}
