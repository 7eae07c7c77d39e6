"""What the client_api workers serve. Data only.

Routing: what writes a stream that belongs to one user alone goes to the owner of that user's slot, named by the path
(USER) or the token (TOKEN_USER). Everything else reads and writes Postgres, and any process is right (NONE).
"""

from shared.http.endpoint import CLIENT_V1, Auth, Endpoint, Pool, RateLimit, RoutingKey

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

_INTERNAL = (
    Endpoint(
        "take_rate_limit", ("POST",), "/_skep/rate_limit/take", "client", auth=Auth.INTERNAL,
    ),
)  # fmt: skip

ENDPOINTS: tuple[Endpoint, ...] = (*_SERVER, *_ACCOUNTS, *_PROFILES, *_INTERNAL)
