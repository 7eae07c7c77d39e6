"""Compose a client_api worker."""

from replication.calls.applied_rows import RoomOwners
from replication.calls.fetches import ASK_ALIAS, ASK_PROFILE
from replication.calls.rooms import REMOVE_CANONICAL_ALIAS, SEND_DELAYED_EVENT, SET_MEMBER_PROFILE
from replication.process.foundation import Foundation, Worker
from shared.operations.passwords import PasswordHasher
from shared.operations.quotas import UserQuotas
from shared.operations.rule_switches import rule_switches
from workers.client_api.accounts.administration import AccountAdministration
from workers.client_api.accounts.deactivation import Deactivation
from workers.client_api.accounts.devices import Devices
from workers.client_api.accounts.interactive_auth import InteractiveAuth
from workers.client_api.accounts.login import Login, PasswordCheck
from workers.client_api.accounts.passwords import PasswordChange, PasswordDemand
from workers.client_api.accounts.registration import Registration
from workers.client_api.accounts.sealed_passwords import SealedPasswords
from workers.client_api.accounts.sessions import Sessions
from workers.client_api.accounts.shared_secret import SharedSecretRegistration
from workers.client_api.accounts.third_party_ids import ThirdPartyIds
from workers.client_api.encryption.device_keys import DeviceKeys
from workers.client_api.encryption.key_backup import KeyBackup
from workers.client_api.encryption.to_device import SendToDevice
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
    writer, announcer, calls = foundation.writer, foundation.announcer, foundation.calls
    server_name, accounts = config.server_name, config.accounts
    quotas = UserQuotas(config, foundation.registry)
    hasher = PasswordHasher(accounts.password_hash_threads, accounts.password_minimum_length)
    foundation.share_metrics.show("passwords", hasher.places)
    auth = InteractiveAuth(database, clock, accounts.interactive_session_lifetime_s)
    sessions = Sessions(database, writer, announcer, foundation.authenticator, clock, accounts)
    passwords = PasswordCheck(server_name, database, hasher, config.rate_limits.login)
    demand = PasswordDemand(passwords)
    shared_secret = config.secrets.registration_shared_secret
    member_profiles = MemberProfileSender(database, calls.to(SET_MEMBER_PROFILE), foundation.tasks)
    room_owners = RoomOwners(foundation.slots, foundation.internal_client)
    data = AccountDataWriter(
        database, writer, announcer, room_owners, quotas, max_ignored_users=config.limits.max_ignored_users
    )
    rules = PushRulesWriter(database, writer, announcer, room_owners, rule_switches(config))
    present_users = PresentUsers(database, announcer, foundation.slots, clock)
    typing = TypingNotices(database, announcer, present_users, clock)

    async def drain() -> None:
        typing.stop_all()
        await present_users.save()
        await foundation.authenticator.store_last_seen()

    return Worker(
        features=(
            ServerFacts(config),
            Registration(
                server_name,
                config.registration,
                database,
                hasher,
                SealedPasswords(config.secrets.internal_secret.reveal()),
                auth,
                sessions,
                clock,
                default_display_name=accounts.default_display_name,
            ),
            SharedSecretRegistration(
                server_name,
                shared_secret.reveal() if shared_secret is not None else None,
                accounts,
                database,
                hasher,
                sessions,
                clock,
            ),
            Login(server_name, config.public_base_url.rstrip("/"), passwords, sessions, quotas),
            PasswordChange(hasher, sessions, auth, demand),
            AccountAdministration(hasher, sessions),
            Deactivation(database, sessions, auth, demand),
            Devices(database, sessions, auth, demand),
            ThirdPartyIds(),
            Profiles(
                server_name,
                database,
                member_profiles,
                present_users if config.presence.enabled else None,
                calls.to(ASK_PROFILE) if config.federation.enabled else None,
            ),
            AccountData(database, data, rules),
            Tags(database, data),
            RoomSettingsCopy(database, data, rules),
            Filters(database, quotas),
            PushRules(rules),
            Receipts(database, writer, announcer, data, present_users, clock),
            typing,
            Presence(present_users, database, clock, enabled=config.presence.enabled),
            SendToDevice(server_name, writer, announcer, clock, quotas),
            DeviceKeys(server_name, database, writer, announcer, clock, quotas),
            KeyBackup(),
            Directory(
                server_name,
                database,
                calls.to(REMOVE_CANONICAL_ALIAS),
                clock,
                quotas,
                calls.to(ASK_ALIAS) if config.federation.enabled else None,
            ),
            Reports(database, clock),
            UserDirectory(database, search_all_users=config.user_directory.search_all_users),
            DelayedEvents(database, calls.to(SEND_DELAYED_EVENT)),
            ThreadSubscriptions(
                database,
                writer,
                announcer,
                room_owners,
                enabled=config.experimental.msc4306_thread_subscriptions,
            ),
            RateLimitOwner(foundation.rate_limiter),
        ),
        jobs={"presence": present_users.run} if config.presence.enabled else {},
        drain=drain,
    )
