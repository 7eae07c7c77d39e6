"""Password changes, and authentication by password. Spec: client-server API, "Password management"."""

from collections.abc import Mapping
from typing import Any

import msgspec

from shared.core.errors import bad_json, missing_param
from shared.core.identifiers import UserId
from shared.http.endpoint import RateLimit
from shared.http.request import Request, Response, convert, empty_response
from shared.http.serving import endpoint
from shared.operations.passwords import PasswordHasher
from workers.client_api.accounts.interactive_auth import Demand, InteractiveAuth, Stage, WrongUser
from workers.client_api.accounts.login import (
    PASSWORD,
    PasswordCheck,
    UserIdentifier,
    VerifiedPassword,
    wrong_password,
)
from workers.client_api.accounts.sessions import Sessions


class PasswordDemand:
    """Makes the demand that users authenticate with their password. The stage's result is a `VerifiedPassword`."""

    def __init__(self, passwords: PasswordCheck) -> None:
        self._passwords = passwords

    def of(self, request: Request, operation: str) -> Demand:
        """Return the demand for the password of the logged-in user."""

        async def pass_password(auth: Mapping[str, Any]) -> str:
            password = auth.get("password")
            if password is None:
                raise missing_param("Missing key: auth.password")
            if not isinstance(password, str):
                raise bad_json("auth.password must be a string")
            identifier = _identifier(auth, request.user.user_id)
            account = await self._passwords.check(identifier, password, request.client_address, request.user)
            if account.user_id != request.user.user_id:
                raise WrongUser
            return VerifiedPassword.of(account).text()

        return _demand(operation, request.user.user_id, pass_password)

    def of_account(self, request: Request, operation: str) -> Demand:
        """Return the demand for a password where the access token is optional.

        Without a token, `auth` names the account.
        """
        if request.requester is not None:
            return self.of(request, operation)

        async def pass_password(auth: Mapping[str, Any]) -> str:
            password = auth.get("password")
            if not isinstance(password, str):
                raise missing_param("Missing key: auth.password")
            if "identifier" not in auth and "user" not in auth:
                raise missing_param("Missing key: auth.identifier")
            account = await self._passwords.check(_identifier(auth, UserId("")), password, request.client_address)
            return VerifiedPassword.of(account).text()

        return _demand(operation, None, pass_password)


def _demand(operation: str, user_id: UserId | None, pass_password: Stage) -> Demand:
    return Demand(operation=operation, user_id=user_id, flows=[[PASSWORD]], stages={PASSWORD: pass_password})


class PasswordBody(msgspec.Struct):
    new_password: str | None = None
    new_password_hash: str | None = None  # set by the server, in the stored request only
    logout_devices: bool = True


class PasswordChange:
    def __init__(
        self,
        hasher: PasswordHasher,
        sessions: Sessions,
        auth: InteractiveAuth,
        demand: PasswordDemand,
    ) -> None:
        self._hasher = hasher
        self._sessions = sessions
        self._auth = auth
        self._demand = demand

    @endpoint(
        name="change_password",
        method="POST",
        path="/_matrix/client/{version}/account/password",
        pool="client",
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#post_matrixclientv3accountpassword",
    )
    async def change_password(self, request: Request) -> Response:
        """POST /account/password. All other sessions end unless `logout_devices` is false."""
        user = request.user
        body = request.json_object()
        body.pop("new_password_hash", None)
        first = convert({key: value for key, value in body.items() if key != "auth"}, PasswordBody)
        if first.new_password is not None:
            self._hasher.check_strength(first.new_password)

        async def conceal(body: dict[str, Any]) -> dict[str, Any]:
            return await self._conceal(body, user.user_id)

        passed = await self._auth.check(self._demand.of(request, "change_password"), body, conceal)
        wanted = convert(passed.request, PasswordBody)
        new_hash = wanted.new_password_hash
        if wanted.new_password is not None:
            new_hash = await self._hasher.hash(wanted.new_password, user.user_id)
        if new_hash is None:
            raise missing_param("Missing key: new_password")
        verified_hash = VerifiedPassword.read(passed.results[PASSWORD]).password_hash
        if not await self._sessions.set_password(
            user.user_id, new_hash, verified_hash, ends_sessions=wanted.logout_devices, but=user
        ):
            raise wrong_password()
        return empty_response()

    async def _conceal(self, body: dict[str, Any], user_id: UserId) -> dict[str, Any]:
        kept = {key: value for key, value in body.items() if key != "new_password"}
        if isinstance(body.get("new_password"), str):
            kept["new_password_hash"] = await self._hasher.hash(body["new_password"], user_id)
        return kept


def _identifier(auth: Mapping[str, Any], user_id: UserId) -> UserIdentifier:
    """Return the user that the `auth` object names. Old clients send `user`, some send nothing and mean themselves."""
    if "identifier" in auth:
        return convert(auth["identifier"], UserIdentifier)
    user = auth.get("user", user_id)
    if not isinstance(user, str):
        raise bad_json("auth.user must be a string")
    return UserIdentifier("m.id.user", user)
