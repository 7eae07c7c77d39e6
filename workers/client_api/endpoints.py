"""The endpoints of client_api workers.

A write into a stream of one user goes to the owner of the user's slot, by the path (USER) or the token (TOKEN_USER).
Everything else reads and writes Postgres, and any process serves it (NONE).
"""

from shared.http.endpoint import Pool
from shared.http.serving import endpoints_of
from workers.client_api.accounts.administration import AccountAdministration
from workers.client_api.accounts.deactivation import Deactivation
from workers.client_api.accounts.devices import Devices
from workers.client_api.accounts.login import Login
from workers.client_api.accounts.passwords import PasswordChange
from workers.client_api.accounts.registration import Registration
from workers.client_api.accounts.shared_secret import SharedSecretRegistration
from workers.client_api.accounts.third_party_ids import ThirdPartyIds
from workers.client_api.encryption.device_keys import DeviceKeys
from workers.client_api.encryption.key_backup import KeyBackup
from workers.client_api.encryption.to_device import SendToDevice
from workers.client_api.people.presence import Presence
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
from workers.client_api.user_data.filters import Filters
from workers.client_api.user_data.push_rules import PushRules
from workers.client_api.user_data.room_settings import RoomSettingsCopy
from workers.client_api.user_data.tags import Tags
from workers.client_api.user_data.thread_subscriptions import ThreadSubscriptions

POOLS = (Pool(name="client", worker="client_api", slot_kind="users"),)

ENDPOINTS = endpoints_of(
    ServerFacts,
    Registration,
    SharedSecretRegistration,
    Login,
    Profiles,
    PasswordChange,
    AccountAdministration,
    Deactivation,
    Devices,
    ThirdPartyIds,
    Filters,
    AccountData,
    Tags,
    RoomSettingsCopy,
    PushRules,
    Receipts,
    TypingNotices,
    Presence,
    SendToDevice,
    DeviceKeys,
    KeyBackup,
    Directory,
    Reports,
    UserDirectory,
    DelayedEvents,
    ThreadSubscriptions,
    RateLimitOwner,
)
