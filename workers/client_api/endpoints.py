"""What the client_api workers serve. Data only.

Routing: what writes a stream that belongs to one user alone goes to the owner of that user's slot, named by the path
(USER) or the token (TOKEN_USER). Everything else reads and writes Postgres, and any process is right (NONE).
"""

from shared.http.endpoint import CLIENT_V1, Auth, Endpoint, Pool, RateLimit, RoutingKey
from shared.http.serving import endpoints_of
from workers.client_api.accounts.administration import AccountAdministration
from workers.client_api.accounts.deactivation import Deactivation
from workers.client_api.people.presence import Presence
from workers.client_api.rate_limit_owner import RateLimitOwner
from workers.client_api.user_data.room_settings import RoomSettingsCopy

POOLS = (Pool("client", worker="client_api", slot_kind="users"),)

_CLIENT = "/_matrix/client/{version}"
_SPEC = "client-server-api/#"

_SERVER = (
    Endpoint(
        "get_versions", ("GET",), "/_matrix/client/versions", "client", auth=Auth.OPTIONAL, idempotent=True,
        spec=_SPEC + "get_matrixclientversions",
    ),
    Endpoint(
        "get_well_known_client", ("GET",), "/.well-known/matrix/client", "client", auth=Auth.NONE, idempotent=True,
        spec=_SPEC + "getwell-knownmatrixclient",
    ),
    Endpoint(
        "get_well_known_server", ("GET",), "/.well-known/matrix/server", "client", auth=Auth.NONE, idempotent=True,
        spec="server-server-api/#getwell-knownmatrixserver",
    ),
    Endpoint(
        "get_well_known_support", ("GET",), "/.well-known/matrix/support", "client", auth=Auth.NONE, idempotent=True,
        spec=_SPEC + "getwell-knownmatrixsupport",
    ),
    Endpoint(
        "get_capabilities", ("GET",), f"{_CLIENT}/capabilities", "client", idempotent=True,
        rate_limit=RateLimit.READ, spec=_SPEC + "get_matrixclientv3capabilities",
    ),
    Endpoint(
        "get_turn_server", ("GET",), f"{_CLIENT}/voip/turnServer", "client", idempotent=True, api_v1=True,
        rate_limit=RateLimit.READ, spec=_SPEC + "get_matrixclientv3voipturnserver",
    ),
    Endpoint(
        "list_third_party_protocols", ("GET",), f"{_CLIENT}/thirdparty/protocols", "client", idempotent=True,
        rate_limit=RateLimit.READ, spec=_SPEC + "get_matrixclientv3thirdpartyprotocols",
    ),
)  # fmt: skip

_ACCOUNTS = (
    Endpoint(
        "register", ("POST",), f"{_CLIENT}/register", "client", auth=Auth.NONE, rate_limit=RateLimit.REGISTRATION,
        spec=_SPEC + "post_matrixclientv3register",
    ),
    Endpoint(
        "get_username_availability", ("GET",), f"{_CLIENT}/register/available", "client", auth=Auth.NONE,
        rate_limit=RateLimit.REGISTRATION, spec=_SPEC + "get_matrixclientv3registeravailable",
    ),
    Endpoint(
        "get_registration_token_validity", ("GET",), f"{_CLIENT}/register/m.login.registration_token/validity",
        "client", auth=Auth.NONE, rate_limit=RateLimit.REGISTRATION, versions=CLIENT_V1,
        spec=_SPEC + "get_matrixclientv1registermloginregistration_tokenvalidity",
    ),
    Endpoint(
        "get_registration_nonce", ("GET",), "/_synapse/admin/v1/register", "client", auth=Auth.NONE,
        rate_limit=RateLimit.REGISTRATION,
    ),
    Endpoint(
        "register_with_shared_secret", ("POST",), "/_synapse/admin/v1/register", "client", auth=Auth.NONE,
        rate_limit=RateLimit.REGISTRATION,
    ),
    Endpoint(
        "get_login_flows", ("GET",), f"{_CLIENT}/login", "client", auth=Auth.NONE, idempotent=True, api_v1=True,
        spec=_SPEC + "get_matrixclientv3login",
    ),
    Endpoint(
        "login", ("POST",), f"{_CLIENT}/login", "client", auth=Auth.NONE, rate_limit=RateLimit.LOGIN, api_v1=True,
        spec=_SPEC + "post_matrixclientv3login",
    ),
    Endpoint(
        "refresh", ("POST",), f"{_CLIENT}/refresh", "client", auth=Auth.NONE,
        spec=_SPEC + "post_matrixclientv3refresh",
    ),
    Endpoint("logout", ("POST",), f"{_CLIENT}/logout", "client", spec=_SPEC + "post_matrixclientv3logout"),
    Endpoint(
        "logout_all", ("POST",), f"{_CLIENT}/logout/all", "client", spec=_SPEC + "post_matrixclientv3logoutall"
    ),
    Endpoint(
        "get_whoami", ("GET",), f"{_CLIENT}/account/whoami", "client", idempotent=True, rate_limit=RateLimit.READ,
        spec=_SPEC + "get_matrixclientv3accountwhoami",
    ),
)  # fmt: skip

_PROFILES = (
    Endpoint(
        "get_profile", ("GET",), f"{_CLIENT}/profile/{{userId}}", "client", auth=Auth.OPTIONAL, idempotent=True,
        api_v1=True, spec=_SPEC + "get_matrixclientv3profileuserid",
    ),
    Endpoint(
        "get_profile_field", ("GET",), f"{_CLIENT}/profile/{{userId}}/{{keyName}}", "client", auth=Auth.OPTIONAL,
        idempotent=True, api_v1=True, spec=_SPEC + "get_matrixclientv3profileuseridkeyname",
    ),
    Endpoint(
        "set_profile_field", ("PUT",), f"{_CLIENT}/profile/{{userId}}/{{keyName}}", "client", RoutingKey.USER,
        rate_limit=RateLimit.ACCOUNT, api_v1=True, spec=_SPEC + "put_matrixclientv3profileuseridkeyname",
    ),
    Endpoint(
        "delete_profile_field", ("DELETE",), f"{_CLIENT}/profile/{{userId}}/{{keyName}}", "client", RoutingKey.USER,
        rate_limit=RateLimit.ACCOUNT, spec=_SPEC + "delete_matrixclientv3profileuseridkeyname",
    ),
)  # fmt: skip

_OWN_ACCOUNT = (
    Endpoint(
        "change_password", ("POST",), f"{_CLIENT}/account/password", "client", rate_limit=RateLimit.ACCOUNT,
        spec=_SPEC + "post_matrixclientv3accountpassword",
    ),
    Endpoint(
        "deactivate_account", ("POST",), f"{_CLIENT}/account/deactivate", "client", auth=Auth.OPTIONAL,
        rate_limit=RateLimit.ACCOUNT, spec=_SPEC + "post_matrixclientv3accountdeactivate",
    ),
    Endpoint(
        "list_devices", ("GET",), f"{_CLIENT}/devices", "client", idempotent=True, rate_limit=RateLimit.READ,
        spec=_SPEC + "get_matrixclientv3devices",
    ),
    Endpoint(
        "get_device", ("GET",), f"{_CLIENT}/devices/{{deviceId}}", "client", idempotent=True,
        rate_limit=RateLimit.READ, spec=_SPEC + "get_matrixclientv3devicesdeviceid",
    ),
    Endpoint(
        "set_device", ("PUT",), f"{_CLIENT}/devices/{{deviceId}}", "client", rate_limit=RateLimit.ACCOUNT,
        spec=_SPEC + "put_matrixclientv3devicesdeviceid",
    ),
    Endpoint(
        "delete_device", ("DELETE",), f"{_CLIENT}/devices/{{deviceId}}", "client", rate_limit=RateLimit.ACCOUNT,
        spec=_SPEC + "delete_matrixclientv3devicesdeviceid",
    ),
    Endpoint(
        "delete_devices", ("POST",), f"{_CLIENT}/delete_devices", "client", rate_limit=RateLimit.ACCOUNT,
        spec=_SPEC + "post_matrixclientv3delete_devices",
    ),
)  # fmt: skip

_USER = f"{_CLIENT}/user/{{userId}}"
_USER_ROOM = f"{_USER}/rooms/{{roomId}}"

_ACCOUNT_DATA = (
    Endpoint(
        "create_filter", ("POST",), f"{_USER}/filter", "client", rate_limit=RateLimit.ACCOUNT,
        spec=_SPEC + "post_matrixclientv3useruseridfilter",
    ),
    Endpoint(
        "get_filter", ("GET",), f"{_USER}/filter/{{filterId}}", "client", idempotent=True,
        rate_limit=RateLimit.READ, spec=_SPEC + "get_matrixclientv3useruseridfilterfilterid",
    ),
    Endpoint(
        "get_account_data", ("GET",), f"{_USER}/account_data/{{type}}", "client", RoutingKey.USER, idempotent=True,
        rate_limit=RateLimit.READ, spec=_SPEC + "get_matrixclientv3useruseridaccount_datatype",
    ),
    Endpoint(
        "set_account_data", ("PUT",), f"{_USER}/account_data/{{type}}", "client", RoutingKey.USER,
        rate_limit=RateLimit.ACCOUNT, spec=_SPEC + "put_matrixclientv3useruseridaccount_datatype",
    ),
    Endpoint(
        "get_room_account_data", ("GET",), f"{_USER_ROOM}/account_data/{{type}}", "client", RoutingKey.USER,
        idempotent=True, rate_limit=RateLimit.READ,
        spec=_SPEC + "get_matrixclientv3useruseridroomsroomidaccount_datatype",
    ),
    Endpoint(
        "set_room_account_data", ("PUT",), f"{_USER_ROOM}/account_data/{{type}}", "client", RoutingKey.USER,
        rate_limit=RateLimit.ACCOUNT, spec=_SPEC + "put_matrixclientv3useruseridroomsroomidaccount_datatype",
    ),
    Endpoint(
        "list_tags", ("GET",), f"{_USER_ROOM}/tags", "client", RoutingKey.USER, idempotent=True,
        rate_limit=RateLimit.READ, spec=_SPEC + "get_matrixclientv3useruseridroomsroomidtags",
    ),
    Endpoint(
        "set_tag", ("PUT",), f"{_USER_ROOM}/tags/{{tag}}", "client", RoutingKey.USER, rate_limit=RateLimit.ACCOUNT,
        spec=_SPEC + "put_matrixclientv3useruseridroomsroomidtagstag",
    ),
    Endpoint(
        "delete_tag", ("DELETE",), f"{_USER_ROOM}/tags/{{tag}}", "client", RoutingKey.USER,
        rate_limit=RateLimit.ACCOUNT, spec=_SPEC + "delete_matrixclientv3useruseridroomsroomidtagstag",
    ),
)  # fmt: skip

_PUSH_RULE = f"{_CLIENT}/pushrules/global/{{kind}}/{{ruleId}}"

_PUSH_RULES = (
    Endpoint(
        "get_push_rules", ("GET",), f"{_CLIENT}/pushrules/", "client", idempotent=True, rate_limit=RateLimit.READ,
        spec=_SPEC + "get_matrixclientv3pushrules", aliases=(f"{_CLIENT}/pushrules",),
    ),
    Endpoint(
        "get_global_push_rules", ("GET",), f"{_CLIENT}/pushrules/global/", "client", idempotent=True,
        rate_limit=RateLimit.READ, spec=_SPEC + "get_matrixclientv3pushrulesglobal",
        aliases=(f"{_CLIENT}/pushrules/global",),
    ),
    Endpoint(
        "get_push_rule", ("GET",), _PUSH_RULE, "client", idempotent=True, rate_limit=RateLimit.READ,
        spec=_SPEC + "get_matrixclientv3pushrulesglobalkindruleid",
    ),
    Endpoint(
        "get_push_rule_enabled", ("GET",), f"{_PUSH_RULE}/enabled", "client", idempotent=True,
        rate_limit=RateLimit.READ, spec=_SPEC + "get_matrixclientv3pushrulesglobalkindruleidenabled",
    ),
    Endpoint(
        "get_push_rule_actions", ("GET",), f"{_PUSH_RULE}/actions", "client", idempotent=True,
        rate_limit=RateLimit.READ, spec=_SPEC + "get_matrixclientv3pushrulesglobalkindruleidactions",
    ),
    Endpoint(
        "set_push_rule", ("PUT",), _PUSH_RULE, "client", RoutingKey.TOKEN_USER, rate_limit=RateLimit.ACCOUNT,
        spec=_SPEC + "put_matrixclientv3pushrulesglobalkindruleid",
    ),
    Endpoint(
        "delete_push_rule", ("DELETE",), _PUSH_RULE, "client", RoutingKey.TOKEN_USER, rate_limit=RateLimit.ACCOUNT,
        spec=_SPEC + "delete_matrixclientv3pushrulesglobalkindruleid",
    ),
    Endpoint(
        "set_push_rule_enabled", ("PUT",), f"{_PUSH_RULE}/enabled", "client", RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.ACCOUNT, spec=_SPEC + "put_matrixclientv3pushrulesglobalkindruleidenabled",
    ),
    Endpoint(
        "set_push_rule_actions", ("PUT",), f"{_PUSH_RULE}/actions", "client", RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.ACCOUNT, spec=_SPEC + "put_matrixclientv3pushrulesglobalkindruleidactions",
    ),
)  # fmt: skip

_ROOM = f"{_CLIENT}/rooms/{{roomId}}"

# A room in the path, and yet none of the persisters' business: protocol notes, B2.
_READING = (
    Endpoint(
        "send_receipt", ("POST",), f"{_ROOM}/receipt/{{receiptType}}/{{eventId}}", "client", RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.READ, spec=_SPEC + "post_matrixclientv3roomsroomidreceiptreceipttypeeventid",
    ),
    Endpoint(
        "set_read_markers", ("POST",), f"{_ROOM}/read_markers", "client", RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.READ, spec=_SPEC + "post_matrixclientv3roomsroomidread_markers",
    ),
    Endpoint(
        "set_typing", ("PUT",), f"{_ROOM}/typing/{{userId}}", "client", RoutingKey.USER, rate_limit=RateLimit.READ,
        api_v1=True, spec=_SPEC + "put_matrixclientv3roomsroomidtypinguserid",
    ),
)  # fmt: skip

_PRESENCE = (
    Endpoint(
        "set_presence", ("PUT",), f"{_CLIENT}/presence/{{userId}}/status", "client", RoutingKey.USER, api_v1=True,
        rate_limit=RateLimit.READ, spec=_SPEC + "put_matrixclientv3presenceuseridstatus",
    ),
    # The owner's memory is fresher than what it saves.
    Endpoint(
        "get_presence", ("GET",), f"{_CLIENT}/presence/{{userId}}/status", "client", RoutingKey.USER, api_v1=True,
        idempotent=True, rate_limit=RateLimit.READ, spec=_SPEC + "get_matrixclientv3presenceuseridstatus",
    ),
)  # fmt: skip

# Whoever takes a message writes it; the sender's owner takes all of one device's, so that they stay in order.
_KEYS_AND_MESSAGES = (
    Endpoint(
        "send_to_device", ("PUT",), f"{_CLIENT}/sendToDevice/{{eventType}}/{{txnId}}", "client", RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.READ, idempotent=True, spec=_SPEC + "put_matrixclientv3sendtodeviceeventtypetxnid",
    ),
    Endpoint(
        "upload_keys", ("POST",), f"{_CLIENT}/keys/upload", "client", RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.ACCOUNT, spec=_SPEC + "post_matrixclientv3keysupload",
    ),
    Endpoint(
        "query_keys", ("POST",), f"{_CLIENT}/keys/query", "client", rate_limit=RateLimit.READ,
        spec=_SPEC + "post_matrixclientv3keysquery",
    ),
    Endpoint(
        "claim_keys", ("POST",), f"{_CLIENT}/keys/claim", "client", rate_limit=RateLimit.READ,
        spec=_SPEC + "post_matrixclientv3keysclaim",
    ),
    Endpoint(
        "get_key_changes", ("GET",), f"{_CLIENT}/keys/changes", "client", idempotent=True,
        rate_limit=RateLimit.READ, spec=_SPEC + "get_matrixclientv3keyschanges",
    ),
)  # fmt: skip

_DIRECTORY = (
    Endpoint(
        "list_joined_rooms", ("GET",), f"{_CLIENT}/joined_rooms", "client", idempotent=True,
        rate_limit=RateLimit.READ, spec=_SPEC + "get_matrixclientv3joined_rooms",
    ),
    Endpoint(
        "get_room_by_alias", ("GET",), f"{_CLIENT}/directory/room/{{roomAlias}}", "client", auth=Auth.OPTIONAL,
        idempotent=True, api_v1=True, spec=_SPEC + "get_matrixclientv3directoryroomroomalias",
    ),
    Endpoint(
        "set_room_alias", ("PUT",), f"{_CLIENT}/directory/room/{{roomAlias}}", "client", api_v1=True,
        rate_limit=RateLimit.ACCOUNT, spec=_SPEC + "put_matrixclientv3directoryroomroomalias",
    ),
    Endpoint(
        "delete_room_alias", ("DELETE",), f"{_CLIENT}/directory/room/{{roomAlias}}", "client", api_v1=True,
        rate_limit=RateLimit.ACCOUNT, spec=_SPEC + "delete_matrixclientv3directoryroomroomalias",
    ),
    Endpoint(
        "list_room_aliases", ("GET",), f"{_ROOM}/aliases", "client", idempotent=True, rate_limit=RateLimit.READ,
        spec=_SPEC + "get_matrixclientv3roomsroomidaliases",
    ),
    Endpoint(
        "get_room_visibility", ("GET",), f"{_CLIENT}/directory/list/room/{{roomId}}", "client", auth=Auth.OPTIONAL,
        api_v1=True, idempotent=True, rate_limit=RateLimit.READ,
        spec=_SPEC + "get_matrixclientv3directorylistroomroomid",
    ),
    Endpoint(
        "set_room_visibility", ("PUT",), f"{_CLIENT}/directory/list/room/{{roomId}}", "client", api_v1=True,
        idempotent=True, rate_limit=RateLimit.ACCOUNT, spec=_SPEC + "put_matrixclientv3directorylistroomroomid",
    ),
    Endpoint(
        "report_room", ("POST",), f"{_ROOM}/report", "client", rate_limit=RateLimit.ACCOUNT,
        spec=_SPEC + "post_matrixclientv3roomsroomidreport",
    ),
    Endpoint(
        "report_event", ("POST",), f"{_ROOM}/report/{{eventId}}", "client", rate_limit=RateLimit.ACCOUNT,
        spec=_SPEC + "post_matrixclientv3roomsroomidreporteventid",
    ),
    Endpoint(
        "report_user", ("POST",), f"{_CLIENT}/users/{{userId}}/report", "client", rate_limit=RateLimit.ACCOUNT,
        spec=_SPEC + "post_matrixclientv3usersuseridreport",
    ),
    Endpoint(
        "search_users", ("POST",), f"{_CLIENT}/user_directory/search", "client", rate_limit=RateLimit.READ,
        spec=_SPEC + "post_matrixclientv3user_directorysearch",
    ),
    Endpoint(
        "list_mutual_rooms", ("GET",), f"{_CLIENT}/mutual_rooms", "client", idempotent=True, versions=CLIENT_V1,
        rate_limit=RateLimit.READ, spec=_SPEC + "get_matrixclientv1mutual_rooms",
    ),
)  # fmt: skip

_DELAYED = f"{_CLIENT}/delayed_events"
_DELAYED_UNSTABLE = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"

# MSC4140. They are scheduled at the rooms' owners. Under the unstable paths the id is enough of a proof.
_DELAYED_EVENTS = (
    Endpoint(
        "list_delayed_events", ("GET",), _DELAYED, "client", idempotent=True, versions=("v1",),
        rate_limit=RateLimit.READ, spec="MSC4140", aliases=(_DELAYED_UNSTABLE,),
    ),
    Endpoint(
        "get_delayed_event", ("GET",), f"{_DELAYED}/{{delayId}}", "client", idempotent=True, versions=("v1",),
        rate_limit=RateLimit.READ, spec="MSC4140", aliases=(f"{_DELAYED_UNSTABLE}/{{delayId}}",),
    ),
    Endpoint(
        "update_delayed_event", ("POST",), f"{_DELAYED}/{{delayId}}/{{action}}", "client", versions=("v1",),
        rate_limit=RateLimit.READ, spec="MSC4140",
    ),
    Endpoint(
        "update_delayed_event_unstable", ("POST",), f"{_DELAYED_UNSTABLE}/{{delayId}}/{{action}}", "client",
        auth=Auth.OPTIONAL, rate_limit=RateLimit.READ, spec="MSC4140",
    ),
    Endpoint(
        "update_delayed_event_by_body", ("POST",), f"{_DELAYED_UNSTABLE}/{{delayId}}", "client", auth=Auth.OPTIONAL,
        rate_limit=RateLimit.READ, spec="MSC4140",
    ),
)  # fmt: skip

_SUBSCRIPTION = "/_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{threadRootId}/subscription"


def _thread_subscription(name: str, method: str) -> Endpoint:
    return Endpoint(
        name, (method,), _SUBSCRIPTION, "client", RoutingKey.TOKEN_USER, rate_limit=RateLimit.READ,
        idempotent=method == "GET", spec="MSC4306",
    )  # fmt: skip


_THREADS = (
    _thread_subscription("set_thread_subscription", "PUT"),
    _thread_subscription("get_thread_subscription", "GET"),
    _thread_subscription("delete_thread_subscription", "DELETE"),
)

_INTERNAL = endpoints_of(AccountAdministration, Deactivation, RoomSettingsCopy, Presence, RateLimitOwner)

ENDPOINTS: tuple[Endpoint, ...] = (
    *_SERVER,
    *_ACCOUNTS,
    *_OWN_ACCOUNT,
    *_PROFILES,
    *_ACCOUNT_DATA,
    *_PUSH_RULES,
    *_READING,
    *_PRESENCE,
    *_KEYS_AND_MESSAGES,
    *_DIRECTORY,
    *_DELAYED_EVENTS,
    *_THREADS,
    *_INTERNAL,
)
