"""Registration by the shared secret of the configuration, for `skep user register` and existing tools.

GET returns a nonce. POST carries HMAC-SHA1(secret, nonce NUL user NUL password NUL "admin"|"notadmin" [NUL user type]).
Existing tools demand this form with SHA-1. An HMAC with SHA-1 is still secure.
"""

import hashlib
import hmac
import secrets

import msgspec

from shared.config.sections import Accounts
from shared.core.errors import MatrixError, forbidden, invalid_param
from shared.core.identifiers import (
    UserId,
    is_user_id,
    is_valid_localpart_for_registration,
    lower_ascii,
    parse_user_id,
)
from shared.http.endpoint import Auth, RateLimit
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.operations.passwords import PasswordHasher
from shared.runtime.clock import Clock
from shared.storage.accounts.registration import create_nonce, take_nonce
from shared.storage.accounts.users import NewAccount, create_account
from shared.storage.engine.pool import Database
from workers.client_api.accounts.sessions import Sessions
from workers.client_api.people.profiles import MAX_DISPLAY_NAME_CHARS

_NONCE_LIFETIME_MS = 60_000
_USER_TYPES = ("support", "bot")


class SharedSecretBody(msgspec.Struct):
    nonce: str
    username: str
    password: str
    mac: str
    admin: bool = False
    user_type: str | None = None
    displayname: str | None = None
    inhibit_login: bool = False


class SharedSecretRegistration:
    def __init__(
        self,
        server_name: str,
        secret: str | None,
        config: Accounts,
        database: Database,
        hasher: PasswordHasher,
        sessions: Sessions,
        clock: Clock,
    ) -> None:
        """secret: None: the endpoints answer with an error."""
        self._server_name = server_name
        self._config = config
        self._secret = secret.encode() if secret is not None else None
        self._database = database
        self._hasher = hasher
        self._sessions = sessions
        self._clock = clock

    @endpoint(
        name="get_registration_nonce",
        method="GET",
        path="/_synapse/admin/v1/register",
        pool="client",
        auth=Auth.NONE,
        rate_limit=RateLimit.REGISTRATION,
    )
    async def get_nonce(self, request: Request) -> Response:
        """GET /_synapse/admin/v1/register."""
        self._required_secret()
        nonce = secrets.token_hex(32)
        await create_nonce(self._database, nonce, self._clock.now_ms())
        return json_response({"nonce": nonce})

    @endpoint(
        name="register_with_shared_secret",
        method="POST",
        path="/_synapse/admin/v1/register",
        pool="client",
        auth=Auth.NONE,
        rate_limit=RateLimit.REGISTRATION,
    )
    async def register(self, request: Request) -> Response:
        """POST /_synapse/admin/v1/register. Raises M_FORBIDDEN for a wrong mac, M_UNKNOWN for an invalid nonce."""
        secret = self._required_secret()
        body = request.decode(SharedSecretBody)
        user_id = self._check(body)
        newer_than_ms = self._clock.now_ms() - _NONCE_LIFETIME_MS
        if "\x00" in body.nonce or not await take_nonce(self._database, body.nonce, newer_than_ms):
            raise MatrixError("M_UNKNOWN", "The nonce is unknown, has been used or has expired")
        if not hmac.compare_digest(_mac(secret, body).encode(), body.mac.lower().encode("utf-8", "replace")):
            raise forbidden("The mac does not match the request and the shared secret")
        default_name = parse_user_id(user_id)[0] if self._config.default_display_name else None
        account = NewAccount(
            user_id=user_id,
            password_hash=await self._hasher.hash(body.password),
            kind=body.user_type or "user",
            is_admin=body.admin,
            created_ms=self._clock.now_ms(),
            displayname=body.displayname or default_name,
        )
        issued = None if body.inhibit_login else self._sessions.issue(user_id, None, None, refreshable=False)
        if not (await create_account(self._database, account, issued.stored if issued else None)).created:
            raise MatrixError("M_USER_IN_USE", "This user name is taken")
        answer = {"user_id": user_id, "home_server": self._server_name}
        if issued is not None:
            answer |= {"device_id": issued.stored.device_id, **issued.answer()}
        return json_response(answer)

    def _required_secret(self) -> bytes:
        if self._secret is None:
            raise MatrixError("M_UNKNOWN", "Registration by shared secret is not enabled")
        return self._secret

    def _check(self, body: SharedSecretBody) -> UserId:
        """Return the user id to register, in lower case."""
        localpart = lower_ascii(body.username)
        user_id = f"@{localpart}:{self._server_name}"
        if not (is_valid_localpart_for_registration(localpart) and is_user_id(user_id)):
            raise MatrixError("M_INVALID_USERNAME", "The user name is not valid")
        if "\x00" in body.password:
            raise invalid_param("The password must not contain NUL")  # the mac could not tell where it ends
        self._hasher.check_strength(body.password)
        if body.user_type is not None and body.user_type not in _USER_TYPES:
            raise invalid_param(f"user_type must be one of: {', '.join(_USER_TYPES)}")
        if body.displayname is not None and len(body.displayname) > MAX_DISPLAY_NAME_CHARS:
            raise invalid_param(f"displayname must have at most {MAX_DISPLAY_NAME_CHARS} characters")
        return UserId(user_id)


def _mac(secret: bytes, body: SharedSecretBody) -> str:
    parts = [body.nonce, body.username, body.password, "admin" if body.admin else "notadmin"]
    if body.user_type:
        parts.append(body.user_type)
    message = "\x00".join(parts).encode("utf-8", "surrogatepass")
    return hmac.new(secret, message, hashlib.sha1).hexdigest()
