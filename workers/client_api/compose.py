"""Constructs the objects of a client_api worker."""

from replication.calls.rooms import SEND_DELAYED_EVENT, SET_MEMBER_PROFILE
from replication.process.foundation import Foundation, Worker
from shared.http.request import Handler
from shared.http.serving import handlers_of
from shared.operations.passwords import PasswordHasher
from shared.operations.rule_switches import rule_switches
from workers.client_api.accounts.administration import AccountAdministration
from workers.client_api.accounts.deactivation import Deactivation
from workers.client_api.accounts.devices import Devices
from workers.client_api.accounts.interactive_auth import InteractiveAuth
from workers.client_api.accounts.login import Login, PasswordCheck
from workers.client_api.accounts.passwords import PasswordChange, PasswordDemand
from workers.client_api.accounts.registration import Registration
from workers.client_api.accounts.sessions import Sessions
from workers.client_api.accounts.shared_secret import SharedSecretRegistration
from workers.client_api.encryption.device_keys import DeviceKeys
from workers.client_api.encryption.to_device import SendToDevice
from workers.client_api.people.guests import guests_change_only_displayname
from workers.client_api.people.member_profiles import MemberProfileSender
from workers.client_api.people.presence import Presence
from workers.client_api.people.present_users import PresentUsers
from workers.client_api.people.profiles import Profiles
from workers.client_api.people.user_directory import UserDirectory
from workers.client_api.rate_limit_owner import RateLimitOwner
from workers.client_api.rooms.aliases import Directory
from workers.client_api.rooms.delayed_events import DelayedEvents
from workers.client_api.rooms.receipts import Receipts
from workers.client_api.rooms.reports import Reports
from workers.client_api.rooms.typing_notices import TypingNotices
from workers.client_api.server_facts import ServerFacts
from workers.client_api.user_data.account_data import AccountData
from workers.client_api.user_data.account_data_writer import AccountDataWriter
from workers.client_api.user_data.filters import Filters
from workers.client_api.user_data.push_rules import PushRules
from workers.client_api.user_data.push_rules_writer import PushRulesWriter
from workers.client_api.user_data.room_settings import RoomSettingsCopy
from workers.client_api.user_data.tags import Tags
from workers.client_api.user_data.thread_subscriptions import ThreadSubscriptions


def compose(foundation: Foundation) -> Worker:
    config, database, clock = foundation.config, foundation.database, foundation.clock
    server_name = config.server_name
    hasher = PasswordHasher(config.accounts.password_hash_threads, config.accounts.password_minimum_length)
    auth = InteractiveAuth(database, clock, config.accounts.interactive_session_lifetime_s)
    sessions = Sessions(
        database, foundation.writer, foundation.announcer, foundation.authenticator, clock, config.accounts
    )
    passwords = PasswordCheck(server_name, database, hasher, config.rate_limits.login)

    facts = ServerFacts(config)
    registration = Registration(server_name, config.registration, database, hasher, auth, sessions, clock)
    secret = config.secrets.registration_shared_secret
    by_secret = SharedSecretRegistration(
        server_name, secret.reveal() if secret is not None else None, database, hasher, sessions, clock
    )
    login = Login(server_name, config.public_base_url.rstrip("/"), passwords, sessions)
    demand = PasswordDemand(passwords)
    password_change = PasswordChange(database, hasher, sessions, auth, demand)
    deactivation = Deactivation(database, foundation.writer, sessions, auth, demand, clock)
    administration = AccountAdministration(foundation.writer, hasher, sessions, clock)
    devices = Devices(database, sessions, auth, demand)

    calls = foundation.calls
    profiles = Profiles(
        server_name, database, MemberProfileSender(database, calls.to(SET_MEMBER_PROFILE), foundation.tasks)
    )
    writer = AccountDataWriter(database, foundation.writer, foundation.announcer)
    rules = PushRulesWriter(database, foundation.writer, foundation.announcer, rule_switches(config.experimental))
    account_data = AccountData(database, writer, rules)
    tags = Tags(database, writer)
    room_settings = RoomSettingsCopy(database, writer, rules)
    filters = Filters(database)
    push_rules = PushRules(rules)
    receipts = Receipts(database, foundation.writer, foundation.announcer, writer, clock)
    typing = TypingNotices(database, foundation.announcer, clock)
    present_users = PresentUsers(database, foundation.announcer, foundation.slots, clock)
    presence = Presence(present_users, database, clock, enabled=config.presence.enabled)
    to_device = SendToDevice(server_name, foundation.writer, foundation.announcer, clock)
    keys = DeviceKeys(server_name, database, foundation.writer, foundation.announcer, clock)
    directory = Directory(server_name, database, clock)
    reports = Reports(database, clock)
    delayed_events = DelayedEvents(database, calls.to(SEND_DELAYED_EVENT))
    threads = ThreadSubscriptions(
        database, foundation.writer, foundation.announcer, enabled=config.experimental.msc4306_thread_subscriptions
    )
    user_directory = UserDirectory(database, search_all_users=config.user_directory.search_all_users)
    limits = RateLimitOwner(foundation.rate_limiter)

    handlers: dict[str, Handler] = {
        "get_versions": facts.get_versions,
        "get_well_known_client": facts.get_well_known_client,
        "get_well_known_server": facts.get_well_known_server,
        "get_well_known_support": facts.get_well_known_support,
        "get_capabilities": facts.get_capabilities,
        "get_turn_server": facts.get_turn_server,
        "list_third_party_protocols": facts.list_third_party_protocols,
        "register": registration.register,
        "get_username_availability": registration.get_username_availability,
        "get_registration_token_validity": registration.get_registration_token_validity,
        "get_registration_nonce": by_secret.get_nonce,
        "register_with_shared_secret": by_secret.register,
        "get_login_flows": login.get_login_flows,
        "login": login.login,
        "refresh": login.refresh,
        "logout": login.logout,
        "logout_all": login.logout_all,
        "get_whoami": login.get_whoami,
        "get_profile": profiles.get_profile,
        "get_profile_field": profiles.get_profile_field,
        "set_profile_field": guests_change_only_displayname(profiles.set_profile_field),
        "delete_profile_field": guests_change_only_displayname(profiles.delete_profile_field),
        "change_password": password_change.change_password,
        "deactivate_account": deactivation.deactivate_account,
        "list_devices": devices.list_devices,
        "get_device": devices.get_device,
        "set_device": devices.set_device,
        "delete_device": devices.delete_device,
        "delete_devices": devices.delete_devices,
        "create_filter": filters.create_filter,
        "get_filter": filters.get_filter,
        "get_account_data": account_data.get_account_data,
        "set_account_data": account_data.set_account_data,
        "get_room_account_data": account_data.get_room_account_data,
        "set_room_account_data": account_data.set_room_account_data,
        "list_tags": tags.list_tags,
        "set_tag": tags.set_tag,
        "delete_tag": tags.delete_tag,
        "get_push_rules": push_rules.get_push_rules,
        "get_global_push_rules": push_rules.get_global_push_rules,
        "get_push_rule": push_rules.get_push_rule,
        "get_push_rule_enabled": push_rules.get_push_rule_enabled,
        "get_push_rule_actions": push_rules.get_push_rule_actions,
        "set_push_rule": push_rules.set_push_rule,
        "delete_push_rule": push_rules.delete_push_rule,
        "set_push_rule_enabled": push_rules.set_push_rule_enabled,
        "set_push_rule_actions": push_rules.set_push_rule_actions,
        "send_receipt": presence.counting_as_activity(receipts.send_receipt),
        "set_read_markers": presence.counting_as_activity(receipts.set_read_markers),
        "set_typing": presence.counting_as_activity(typing.set_typing),
        "set_presence": presence.set_presence,
        "get_presence": presence.get_presence,
        "send_to_device": to_device.send_to_device,
        "upload_keys": keys.upload_keys,
        "query_keys": keys.query_keys,
        "claim_keys": keys.claim_keys,
        "get_key_changes": keys.get_key_changes,
        "list_joined_rooms": directory.list_joined_rooms,
        "get_room_by_alias": directory.get_room_by_alias,
        "set_room_alias": directory.set_room_alias,
        "delete_room_alias": directory.delete_room_alias,
        "list_room_aliases": directory.list_room_aliases,
        "get_room_visibility": directory.get_room_visibility,
        "set_room_visibility": directory.set_room_visibility,
        "report_room": reports.report_room,
        "report_event": reports.report_event,
        "report_user": reports.report_user,
        "search_users": user_directory.search_users,
        "list_mutual_rooms": reports.list_mutual_rooms,
        "set_thread_subscription": threads.set_thread_subscription,
        "get_thread_subscription": threads.get_thread_subscription,
        "delete_thread_subscription": threads.delete_thread_subscription,
        "list_delayed_events": delayed_events.list_delayed_events,
        "get_delayed_event": delayed_events.get_delayed_event,
        "update_delayed_event": delayed_events.update_delayed_event,
        "update_delayed_event_unstable": delayed_events.update_delayed_event,
        "update_delayed_event_by_body": delayed_events.update_delayed_event_by_body,
        **handlers_of(administration, deactivation, room_settings, presence, limits),
    }

    async def start() -> None:
        if config.presence.enabled:
            foundation.tasks.forever(present_users.run, "presence")

    async def drain() -> None:
        typing.stop_all()
        await present_users.save()
        await foundation.authenticator.store_last_seen()

    return Worker(handlers=handlers, start=start, drain=drain)
