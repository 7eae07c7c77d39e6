"""Log-in and log-out. Spec: client-server API, "Client Authentication"."""

import logging
from dataclasses import replace
from typing import Any

import msgspec

from shared.config.sections import Rate
from shared.core.addresses import address_key
from shared.core.errors import MatrixError, forbidden, limit_exceeded, missing_param, user_deactivated
from shared.core.identifiers import UserId, is_user_id, lower_ascii
from shared.http.endpoint import Auth, RateLimit
from shared.http.request import Request, Requester, Response, empty_response, json_response
from shared.http.serving import endpoint
from shared.operations.passwords import PasswordHasher
from shared.operations.quotas import UserQuotas
from shared.storage.accounts.login_attempts import count_login_attempt, get_login_addresses
from shared.storage.accounts.users import Account, get_account, replace_password_hash
from shared.storage.engine.pool import Database
from workers.client_api.accounts.sessions import Issued, Sessions, TooManyDevices

logger = logging.getLogger(__name__)

PASSWORD = "m.login.password"  # noqa: S105 - the name of a login type


class UserIdentifier(msgspec.Struct):
    """The identifier of a user. Only `m.id.user` is supported. Spec: client-server API, "Identifier types"."""

    type: str
    user: str | None = None


class LoginBody(msgspec.Struct):
    type: str
    identifier: UserIdentifier | None = None
    user: str | None = None  # deprecated, but clients still send it
    medium: str | None = None
    address: str | None = None
    password: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    refresh_token: bool = False


class RefreshBody(msgspec.Struct):
    refresh_token: str


class VerifiedPassword(msgspec.Struct, frozen=True):
    """A password that was right, as the result of a stage of interactive authentication.

    What follows is done only while the account still has this hash.
    """

    user_id: UserId
    password_hash: str

    @classmethod
    def of(cls, account: Account) -> "VerifiedPassword":
        assert account.password_hash is not None
        return cls(account.user_id, account.password_hash)

    @classmethod
    def read(cls, text: str) -> "VerifiedPassword":
        return msgspec.json.decode(text, type=cls)

    def text(self) -> str:
        return msgspec.json.encode(self).decode()


class PasswordCheck:
    """Checks the passwords of local users and counts the attempts. A check takes equally long for unknown users."""

    def __init__(self, server_name: str, database: Database, hasher: PasswordHasher, rate: Rate | None) -> None:
        """rate: the limit of attempts per account and per address; None: no limit."""
        self._server_name = server_name
        self._database = database
        self._hasher = hasher
        self._rate = rate

    async def check(
        self,
        identifier: UserIdentifier,
        password: str,
        address: str,
        requester: Requester | None = None,
        *,
        counts: bool = True,
    ) -> Account:
        """Return the account. Raises MatrixError M_FORBIDDEN, M_USER_DEACTIVATED (403), M_LIMIT_EXCEEDED (429).

        requester: of a request with an access token.
        counts: False for an attempt that was counted already.
        """
        if identifier.type != "m.id.user":
            # This server stores no e-mail addresses and phone numbers, so each is unknown: as for a wrong password.
            if identifier.type in ("m.id.thirdparty", "m.id.phone"):
                raise wrong_password()
            raise MatrixError("M_UNKNOWN", "identifier.type must be m.id.user")
        if identifier.user is None:
            raise missing_param("Missing key: identifier.user")
        user_id = self._local_user_id(identifier.user)
        # The log is for operators. The client learns less, so that it cannot tell whether an account exists.
        shown = " ".join((user_id or identifier.user).split())[:255]
        try:
            if counts:
                await self._count(user_id, address, requester)
        except MatrixError:
            logger.info("Log-in of %s refused: too many attempts (address %s)", shown, address)
            raise
        account = await self._find(user_id) if user_id is not None else None
        stored = account.password_hash if account is not None else None
        matches = await self._hasher.verify(stored, password, address_key(address))
        if account is not None and account.deactivated:
            logger.info("Log-in of %s refused: the account is deactivated (address %s)", shown, address)
            raise user_deactivated()
        if account is None or not matches:
            why = "no such account" if account is None else "wrong password"
            logger.info("Log-in of %s refused: %s (address %s)", shown, why, address)
            raise wrong_password()
        if account.password_hash is not None and self._hasher.needs_rehash(account.password_hash):
            new_hash = await self._hasher.hash(password, address_key(address))
            if await replace_password_hash(self._database, account.user_id, account.password_hash, new_hash):
                account = replace(account, password_hash=new_hash)
        return account

    def _local_user_id(self, user: str) -> UserId | None:
        """Return the user id for a localpart or user id; None if it cannot be a local user."""
        user_id = user if user.startswith("@") else f"@{user}:{self._server_name}"
        if not is_user_id(user_id) or user_id.partition(":")[2] != self._server_name:
            return None
        return UserId(user_id)

    async def _find(self, user_id: UserId) -> Account | None:
        account = await get_account(self._database, user_id)
        if account is None:
            # People capitalise their names. Registered names are lower case.
            localpart, colon, server = user_id.partition(":")
            if (lower := lower_ascii(localpart)) != localpart:
                account = await get_account(self._database, UserId(lower + colon + server))
        return account

    async def _count(self, user_id: UserId | None, address: str, requester: Requester | None) -> None:
        if self._rate is None:
            return
        keys = [f"address:{address_key(address)}"]
        if user_id is not None:
            keys.append(await self._account_key(user_id, address, requester))
        wait_s = await count_login_attempt(self._database, keys, self._rate.burst, self._rate.per_second)
        if wait_s > 0:
            raise limit_exceeded(wait_s)

    async def _account_key(self, user_id: UserId, address: str, requester: Requester | None) -> str:
        """Return the name of the account's bucket for this attempt.

        The user's devices, and the addresses from which they logged in before, have buckets of their own: strangers who
        use up the account's bucket must not lock its user out.
        """
        account = f"account:{lower_ascii(user_id)}"
        if requester is not None and requester.user_id == user_id:
            return f"{account} device:{requester.device_id or ''}"
        known = await get_login_addresses(self._database, {user_id, UserId(lower_ascii(user_id))})
        from_known = address_key(address) in map(address_key, known)
        return f"{account} address:{address_key(address)}" if from_known else account


class Login:
    def __init__(
        self,
        server_name: str,
        base_url: str,
        passwords: PasswordCheck,
        sessions: Sessions,
        quotas: UserQuotas,
    ) -> None:
        """base_url: the client-server URL that log-in answers name."""
        self._quotas = quotas
        self._server_name = server_name
        self._base_url = base_url
        self._passwords = passwords
        self._sessions = sessions

    @endpoint(
        name="get_login_flows",
        method="GET",
        path="/_matrix/client/{version}/login",
        api_v1=True,
        pool="client",
        auth=Auth.NONE,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3login",
    )
    async def get_login_flows(self, request: Request) -> Response:
        """GET /login."""
        return json_response({"flows": [{"type": PASSWORD}]})

    @endpoint(
        name="login",
        method="POST",
        path="/_matrix/client/{version}/login",
        api_v1=True,
        pool="client",
        auth=Auth.NONE,
        rate_limit=RateLimit.LOGIN,
        spec="client-server-api/#post_matrixclientv3login",
    )
    async def login(self, request: Request) -> Response:
        """POST /login. Raises M_FORBIDDEN, M_USER_DEACTIVATED, M_UNKNOWN for another type, M_LIMIT_EXCEEDED.

        Raises M_USER_LIMIT_EXCEEDED if the account has too many devices.
        """
        body = request.decode(LoginBody)
        if body.type != PASSWORD:
            raise MatrixError("M_UNKNOWN", f"type must be {PASSWORD}")
        if body.password is None:
            raise missing_param("Missing key: password")
        account, issued = await self._begin(_identifier(body), body.password, body, request.client_address)
        return json_response(
            {
                "user_id": account.user_id,
                "home_server": self._server_name,
                "device_id": issued.stored.device_id,
                **issued.answer(),
                "well_known": {"m.homeserver": {"base_url": self._base_url}},
            }
        )

    async def _begin(
        self, identifier: UserIdentifier, password: str, body: LoginBody, address: str
    ) -> tuple[Account, Issued]:
        """Check the password and store the session. If the stored hash changes in between, check that one too."""
        for repeated in (False, True):
            account = await self._passwords.check(identifier, password, address, counts=not repeated)
            issued = self._sessions.issue(
                account.user_id,
                body.device_id,
                body.initial_device_display_name,
                refreshable=body.refresh_token,
            )
            most = self._quotas.limits.devices
            try:
                if await self._sessions.start(
                    account.user_id, issued, account.password_hash, address_key(address), most
                ):
                    return account, issued
            except TooManyDevices as error:
                raise self._quotas.exceeded(
                    "devices", f"This account may have at most {most} devices. Log out one that you do not use any more"
                ) from error
        raise wrong_password()

    @endpoint(
        name="refresh",
        method="POST",
        path="/_matrix/client/{version}/refresh",
        pool="client",
        auth=Auth.NONE,
        spec="client-server-api/#post_matrixclientv3refresh",
    )
    async def refresh(self, request: Request) -> Response:
        """POST /refresh."""
        body = request.decode(RefreshBody)
        return json_response((await self._sessions.refresh(body.refresh_token)).answer())

    @endpoint(
        name="logout",
        method="POST",
        path="/_matrix/client/{version}/logout",
        pool="client",
        spec="client-server-api/#post_matrixclientv3logout",
    )
    async def logout(self, request: Request) -> Response:
        """POST /logout."""
        await self._sessions.end(request.user)
        return empty_response()

    @endpoint(
        name="logout_all",
        method="POST",
        path="/_matrix/client/{version}/logout/all",
        pool="client",
        spec="client-server-api/#post_matrixclientv3logoutall",
    )
    async def logout_all(self, request: Request) -> Response:
        """POST /logout/all."""
        await self._sessions.end_all(request.user.user_id)
        return empty_response()

    @endpoint(
        name="get_whoami",
        method="GET",
        path="/_matrix/client/{version}/account/whoami",
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3accountwhoami",
    )
    async def get_whoami(self, request: Request) -> Response:
        """GET /account/whoami."""
        user = request.user
        answer: dict[str, Any] = {"user_id": user.user_id, "is_guest": user.is_guest}
        if user.device_id is not None:
            answer["device_id"] = user.device_id
        return json_response(answer)


def _identifier(body: LoginBody) -> UserIdentifier:
    if body.identifier is not None:
        return body.identifier
    if body.user is not None:
        return UserIdentifier("m.id.user", body.user)
    if body.medium is not None and body.address is not None:
        return UserIdentifier("m.id.thirdparty")
    raise missing_param("Missing key: identifier")


def wrong_password() -> MatrixError:
    return forbidden("The user name or the password is wrong")
