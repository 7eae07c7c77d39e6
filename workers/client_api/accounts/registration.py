"""Registration: open, by registration token, and of guests.

Spec: client-server API, "Account registration and management".
"""

import secrets
import string
from collections.abc import Mapping
from typing import Any

import msgspec

from shared.config.sections import Registration as RegistrationConfig
from shared.core.addresses import address_key
from shared.core.errors import MatrixError, bad_json, forbidden, missing_param
from shared.core.identifiers import UserId, is_user_id, is_valid_localpart_for_registration, lower_ascii, parse_user_id
from shared.http.endpoint import CLIENT_V1, Auth, RateLimit
from shared.http.request import Request, Response, convert, json_response
from shared.http.serving import endpoint
from shared.operations.passwords import PasswordHasher
from shared.runtime.clock import Clock
from shared.storage.accounts.registration import is_usable_token
from shared.storage.accounts.tokens import get_session, hash_token
from shared.storage.accounts.users import NewAccount, create_account, get_account, is_taken
from shared.storage.engine.pool import Database
from workers.client_api.accounts.interactive_auth import Demand, InteractiveAuth, Passed, pass_dummy, session_of
from workers.client_api.accounts.sealed_passwords import SealedPasswords
from workers.client_api.accounts.sessions import Issued, Sessions

REGISTRATION_TOKEN = "m.login.registration_token"  # noqa: S105 - the name of a stage
#: The result of an interactive session that has made an account.
REGISTERED = "registered"
_DUMMY = "m.login.dummy"
_RANDOM_LETTERS = string.ascii_lowercase + string.digits


class RegisterBody(msgspec.Struct):
    username: str | None = None
    password: str | None = None
    sealed_password: str | None = None  # set by the server, in the stored request only
    guest_access_token: str | None = None
    guest_token_hash: str | None = None  # set by the server, in the stored request only
    device_id: str | None = None
    initial_device_display_name: str | None = None
    inhibit_login: bool = False
    refresh_token: bool = False


#: Fields of `RegisterBody` that only the server sets.
_STORED_ONLY = ("sealed_password", "guest_token_hash")
#: Fields that an interactive session keeps as they are.
_KEPT = frozenset(RegisterBody.__struct_fields__) - {"password", "guest_access_token", *_STORED_ONLY}


class Registered(msgspec.Struct, frozen=True):
    """The account that an interactive session made. device_id: None if it did not log in."""

    user_id: UserId
    device_id: str | None


class Registration:
    def __init__(
        self,
        server_name: str,
        config: RegistrationConfig,
        database: Database,
        hasher: PasswordHasher,
        sealed_passwords: SealedPasswords,
        auth: InteractiveAuth,
        sessions: Sessions,
        clock: Clock,
        *,
        default_display_name: bool,
    ) -> None:
        """default_display_name: True: new users get their localpart as display name."""
        self._server_name = server_name
        self._config = config
        self._default_display_name = default_display_name
        self._database = database
        self._hasher = hasher
        self._sealed_passwords = sealed_passwords
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
        body = {key: value for key, value in request.json_object().items() if key not in _STORED_ONLY}
        first = self._parse({key: value for key, value in body.items() if key != "auth"})
        if (registered := await self._registered_by(session_of(body))) is not None:
            return await self._log_in_again(registered, first, address_key(request.client_address))
        # The spec says of these errors (400) that they come before any authentication.
        if first.username is not None:
            await self._check_available(first)
        if first.password is not None:
            self._hasher.check_strength(first.password)
        passed = await self._auth.check(self._demand(), body, self._conceal)
        wanted = self._parse(passed.request)
        if wanted.username is not None and wanted.username != first.username:
            await self._check_available(wanted)
        password = wanted.password
        if password is None and wanted.sealed_password is not None:
            password = self._sealed_passwords.open(wanted.sealed_password)
        if password is None:
            raise missing_param("Missing key: password")
        address = address_key(request.client_address)
        return await self._create(wanted, await self._hasher.hash(password, address), passed, address)

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
        user_id = self._user_id(lower_ascii(request.query_required("username")))
        if await is_taken(self._database, user_id):
            raise _in_use()
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

    @staticmethod
    def _parse(body: dict[str, Any]) -> RegisterBody:
        wanted = convert(body, RegisterBody)
        if wanted.username is not None:
            wanted.username = lower_ascii(wanted.username)
        return wanted

    async def _conceal(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the part of the request that registration needs, without its password and the guest's access token.

        The password is encrypted. To hash it costs too much before the client has authenticated.
        """
        kept = {key: value for key, value in body.items() if key in _KEPT}
        if isinstance(body.get("password"), str):
            kept["sealed_password"] = self._sealed_passwords.seal(body["password"])
        if isinstance(body.get("guest_access_token"), str):
            kept["guest_token_hash"] = hash_token(body["guest_access_token"]).hex()
        return kept

    async def _check_available(self, wanted: RegisterBody) -> None:
        """Raise M_USER_IN_USE for a taken name. A guest may keep their own: see `_guest`."""
        assert wanted.username is not None
        user_id = self._user_id(wanted.username)
        if await self._guest(wanted) != user_id and await is_taken(self._database, user_id):
            raise _in_use()

    async def _guest(self, wanted: RegisterBody) -> UserId | None:
        """Return the guest who becomes a user; None if the request has no guest's token. Raises M_FORBIDDEN."""
        token_hash = _guest_token_hash(wanted)
        if token_hash is None:
            return None
        session = await get_session(self._database, token_hash)
        if session is None or session.kind != "guest" or session.deactivated:
            raise forbidden("guest_access_token is not the access token of a guest")
        if wanted.username is not None and session.user_id != self._user_id(wanted.username):
            raise forbidden("username must be the user name of the guest")
        return session.user_id

    def _user_id(self, localpart: str) -> UserId:
        user_id = f"@{localpart}:{self._server_name}"
        if not (is_valid_localpart_for_registration(localpart) and is_user_id(user_id)):
            raise MatrixError(
                "M_INVALID_USERNAME",
                "A user name may only have a-z, 0-9, '.', '_', '=', '-', '/' and '+', and at most 255 bytes together"
                " with its server name",
            )
        return UserId(user_id)

    async def _create(self, wanted: RegisterBody, password_hash: str, passed: Passed, address: str) -> Response:
        guest = await self._guest(wanted)
        if guest is not None:
            user_id = guest
        else:
            user_id = self._user_id(wanted.username if wanted.username is not None else _random_localpart())
        token = passed.results.get(REGISTRATION_TOKEN)
        displayname = parse_user_id(user_id)[0] if self._default_display_name else None
        issued = self._issue(user_id, wanted, wanted.device_id)
        if guest is not None:
            guest_hash = _guest_token_hash(wanted)
            assert guest_hash is not None
            creation = await self._sessions.upgrade_guest(user_id, guest_hash, password_hash, displayname, token)
        else:
            device_id = None if issued is None else issued.stored.device_id
            account = NewAccount(
                user_id=user_id,
                password_hash=password_hash,
                kind="user",
                is_admin=False,
                created_ms=self._clock.now_ms(),
                registration_token=token,
                displayname=displayname,
                interactive_session=passed.session_id,
                result=msgspec.json.encode(Registered(user_id, device_id)).decode(),
            )
            creation = await create_account(self._database, account, issued.stored if issued is not None else None)
        if not creation.token_accepted:  # the token was used up since the stage was passed
            raise MatrixError("M_UNAUTHORIZED", "This registration token is no longer valid", 401)
        if not creation.created:
            if (registered := await self._registered_by(passed.session_id)) is not None:
                return await self._log_in_again(registered, wanted, address)
            raise _in_use()
        if guest is not None:
            await self._auth.end(passed)
            if issued is not None:
                await self._sessions.start(user_id, issued, password_hash)
        return self._answer(user_id, issued)

    async def _registered_by(self, session_id: str | None) -> Registered | None:
        """Return the account that an interactive session has made."""
        result = await self._auth.result(self._demand(), session_id, REGISTERED)
        return None if result is None else msgspec.json.decode(result, type=Registered)

    async def _log_in_again(self, registered: Registered, wanted: RegisterBody, address: str) -> Response:
        """Answer a client that registered in this interactive session and missed the answer.

        The device gets new tokens, and the lost ones end. Raises M_FORBIDDEN for another user name or password.
        """
        account = await get_account(self._database, registered.user_id)
        if account is None or account.deactivated:
            raise _in_use()
        if wanted.username is not None and account.user_id != self._user_id(wanted.username):
            raise forbidden("This session has registered another user name")
        if wanted.password is not None and not await self._hasher.verify(
            account.password_hash, wanted.password, address
        ):
            raise forbidden("The password is not the one that this session has registered")
        issued = self._issue(account.user_id, wanted, registered.device_id)
        if issued is not None and not await self._sessions.start(account.user_id, issued, account.password_hash):
            raise forbidden("The password of this account has changed: log in with it")
        return self._answer(account.user_id, issued)

    def _issue(self, user_id: UserId, wanted: RegisterBody, device_id: str | None) -> Issued | None:
        if wanted.inhibit_login:
            return None
        return self._sessions.issue(
            user_id, device_id, wanted.initial_device_display_name, refreshable=wanted.refresh_token
        )

    def _answer(self, user_id: UserId, issued: Issued | None) -> Response:
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
        return self._answer(user_id, issued)


def _guest_token_hash(wanted: RegisterBody) -> bytes | None:
    if wanted.guest_access_token is not None:
        return hash_token(wanted.guest_access_token)
    return None if wanted.guest_token_hash is None else bytes.fromhex(wanted.guest_token_hash)


def _random_localpart() -> str:
    return "".join(secrets.choice(_RANDOM_LETTERS) for _ in range(16))


def _in_use() -> MatrixError:
    return MatrixError("M_USER_IN_USE", "This user name is taken")
