"""Registration: open, by registration token, and of guests.

Spec: client-server API, "Account registration and management".
"""

import secrets
import string
from collections.abc import Mapping
from typing import Any

import msgspec

from shared.config.sections import Registration as RegistrationConfig
from shared.core.errors import MatrixError, bad_json, forbidden, missing_param
from shared.core.identifiers import UserId, is_user_id, is_valid_localpart_for_registration
from shared.http.endpoint import CLIENT_V1, Auth, RateLimit
from shared.http.request import Request, Response, convert, json_response
from shared.http.serving import endpoint
from shared.operations.passwords import PasswordHasher
from shared.runtime.clock import Clock
from shared.storage.accounts.registration import is_usable_token
from shared.storage.accounts.users import NewAccount, create_account, is_taken
from shared.storage.engine.pool import Database
from workers.client_api.accounts.interactive_auth import Demand, InteractiveAuth, pass_dummy
from workers.client_api.accounts.sessions import Sessions

REGISTRATION_TOKEN = "m.login.registration_token"  # noqa: S105 - the name of a stage
_DUMMY = "m.login.dummy"
_RANDOM_LETTERS = string.ascii_lowercase + string.digits


class RegisterBody(msgspec.Struct):
    username: str | None = None
    password: str | None = None
    password_hash: str | None = None  # set by the server, in the stored request only
    device_id: str | None = None
    initial_device_display_name: str | None = None
    inhibit_login: bool = False
    refresh_token: bool = False


class Registration:
    def __init__(
        self,
        server_name: str,
        config: RegistrationConfig,
        database: Database,
        hasher: PasswordHasher,
        auth: InteractiveAuth,
        sessions: Sessions,
        clock: Clock,
    ) -> None:
        self._server_name = server_name
        self._config = config
        self._database = database
        self._hasher = hasher
        self._auth = auth
        self._sessions = sessions
        self._clock = clock

    @endpoint(
        name="register",
        method="POST",
        path="/_matrix/client/{version}/register",
        pool="client",
        auth=Auth.NONE,
        rate_limit=RateLimit.REGISTRATION,
        spec="client-server-api/#post_matrixclientv3register",
    )
    async def register(self, request: Request) -> Response:
        """POST /register. Raises M_FORBIDDEN, M_USER_IN_USE, M_INVALID_USERNAME, M_WEAK_PASSWORD, 401 with flows."""
        if request.query_choice("kind", ("user", "guest"), "user") == "guest":
            return await self._register_guest(request)
        self._demand_open()
        body = request.json_object()
        body.pop("password_hash", None)
        first = convert({key: value for key, value in body.items() if key != "auth"}, RegisterBody)
        # The spec says of these errors (400) that they come before any authentication.
        if first.username is not None:
            await self._check_available(first.username)
        if first.password is not None:
            self._hasher.check_strength(first.password)
        passed = await self._auth.check(self._demand(), body, self._conceal)
        wanted = convert(passed.request, RegisterBody)
        if wanted.username is not None and wanted.username != first.username:
            await self._check_available(wanted.username)
        password_hash = wanted.password_hash
        if wanted.password is not None:
            password_hash = await self._hasher.hash(wanted.password)
        if password_hash is None:
            raise missing_param("Missing key: password")
        answer = await self._create(wanted, password_hash, passed.results.get(REGISTRATION_TOKEN))
        await self._auth.end(passed)
        return answer

    @endpoint(
        name="get_username_availability",
        method="GET",
        path="/_matrix/client/{version}/register/available",
        pool="client",
        auth=Auth.NONE,
        rate_limit=RateLimit.REGISTRATION,
        spec="client-server-api/#get_matrixclientv3registeravailable",
    )
    async def get_username_availability(self, request: Request) -> Response:
        """GET /register/available."""
        self._demand_open()
        await self._check_available(request.query_required("username"))
        return json_response({"available": True})

    @endpoint(
        name="get_registration_token_validity",
        method="GET",
        path="/_matrix/client/{version}/register/m.login.registration_token/validity",
        versions=CLIENT_V1,
        pool="client",
        auth=Auth.NONE,
        rate_limit=RateLimit.REGISTRATION,
        spec="client-server-api/#get_matrixclientv1registermloginregistration_tokenvalidity",
    )
    async def get_registration_token_validity(self, request: Request) -> Response:
        """GET /v1/register/m.login.registration_token/validity."""
        self._demand_open()
        token = request.query_required("token")
        valid = "\x00" not in token and await is_usable_token(self._database, token, self._clock.now_ms())
        return json_response({"valid": valid})

    def _demand_open(self) -> None:
        if not self._config.enabled:
            raise forbidden("Registration is not open on this server")

    def _demand(self) -> Demand:
        stages = {_DUMMY: pass_dummy, REGISTRATION_TOKEN: self._pass_token}
        flow = [REGISTRATION_TOKEN] if self._config.require_token else [_DUMMY]
        return Demand(operation="register", user_id=None, flows=[flow], stages=stages, may_change=True)

    async def _pass_token(self, auth: Mapping[str, Any]) -> str:
        token = auth.get("token")
        if token is None:
            raise missing_param("Missing key: auth.token")
        if not isinstance(token, str):
            raise bad_json("auth.token must be a string")
        if "\x00" in token or not await is_usable_token(self._database, token, self._clock.now_ms()):
            raise MatrixError("M_UNAUTHORIZED", "This registration token is not valid", 401)
        return token

    async def _conceal(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the request with the hash of the password instead of the password."""
        kept = {key: value for key, value in body.items() if key != "password"}
        if isinstance(body.get("password"), str):
            kept["password_hash"] = await self._hasher.hash(body["password"])
        return kept

    async def _check_available(self, localpart: str) -> None:
        if await is_taken(self._database, self._user_id(localpart)):
            raise _in_use()

    def _user_id(self, localpart: str) -> UserId:
        user_id = f"@{localpart}:{self._server_name}"
        if not (is_valid_localpart_for_registration(localpart) and is_user_id(user_id)):
            raise MatrixError(
                "M_INVALID_USERNAME",
                "A user name may only have a-z, 0-9, '.', '_', '=', '-', '/' and '+', and at most 255 bytes together"
                " with its server name",
            )
        return UserId(user_id)

    async def _create(self, wanted: RegisterBody, password_hash: str, token: str | None) -> Response:
        localpart = wanted.username if wanted.username is not None else _random_localpart()
        user_id = self._user_id(localpart)
        account = NewAccount(
            user_id=user_id,
            password_hash=password_hash,
            kind="user",
            is_admin=False,
            created_ms=self._clock.now_ms(),
            registration_token=token,
        )
        issued = (
            None
            if wanted.inhibit_login
            else self._sessions.issue(
                user_id,
                wanted.device_id,
                wanted.initial_device_display_name,
                refreshable=wanted.refresh_token,
            )
        )
        creation = await create_account(self._database, account, issued.stored if issued is not None else None)
        if not creation.token_accepted:  # the token was used up since the stage was passed
            raise MatrixError("M_UNAUTHORIZED", "This registration token is no longer valid", 401)
        if not creation.created:
            raise _in_use()
        answer: dict[str, Any] = {"user_id": user_id, "home_server": self._server_name}
        if issued is not None:
            answer |= {"device_id": issued.stored.device_id, **issued.answer()}
        return json_response(answer)

    async def _register_guest(self, request: Request) -> Response:
        """Register a guest. As the spec demands, everything in the body but the device's name is ignored."""
        if not self._config.allow_guests:
            raise forbidden("This server does not allow guests")
        name = request.json_object(empty_ok=True).get("initial_device_display_name")
        if name is not None and not isinstance(name, str):
            raise bad_json("initial_device_display_name must be a string")
        user_id = self._user_id(f"guest-{_random_localpart()}")
        issued = self._sessions.issue(user_id, None, name, refreshable=False)
        account = NewAccount(
            user_id=user_id, password_hash=None, kind="guest", is_admin=False, created_ms=self._clock.now_ms()
        )
        if not (await create_account(self._database, account, issued.stored)).created:
            raise _in_use()
        return json_response(
            {
                "user_id": user_id,
                "home_server": self._server_name,
                "device_id": issued.stored.device_id,
                **issued.answer(),
            }
        )


def _random_localpart() -> str:
    return "".join(secrets.choice(_RANDOM_LETTERS) for _ in range(16))


def _in_use() -> MatrixError:
    return MatrixError("M_USER_IN_USE", "This user name is taken")
