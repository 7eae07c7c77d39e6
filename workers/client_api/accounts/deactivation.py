"""Account deactivation: the account closes at once, and a background job removes its data and leaves its rooms.

Spec: client-server API, "Account deactivation". The job (`workers/background/`) asks the owner of each room to write
the leave event.
"""

import msgspec

from replication.calls.users import CLEAR_ACCOUNT, ClosedAccount
from shared.core.identifiers import UserId
from shared.http.endpoint import Auth, RateLimit
from shared.http.internal_calls import EMPTY, Empty
from shared.http.request import Request, Response, convert, json_response
from shared.http.serving import endpoint
from shared.storage.accounts.deactivation import clear_account
from shared.storage.engine.pool import Database
from workers.client_api.accounts.interactive_auth import InteractiveAuth
from workers.client_api.accounts.login import PASSWORD, VerifiedPassword, wrong_password
from workers.client_api.accounts.passwords import PasswordDemand
from workers.client_api.accounts.sessions import Sessions


class DeactivationBody(msgspec.Struct):
    id_server: str | None = None
    erase: bool = False


class Deactivation:
    def __init__(
        self,
        database: Database,
        sessions: Sessions,
        auth: InteractiveAuth,
        demand: PasswordDemand,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._auth = auth
        self._demand = demand

    @endpoint(
        name="deactivate_account",
        method="POST",
        path="/_matrix/client/{version}/account/deactivate",
        pool="client",
        auth=Auth.OPTIONAL,
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#post_matrixclientv3accountdeactivate",
    )
    async def deactivate_account(self, request: Request) -> Response:
        """POST /account/deactivate, after user-interactive authentication, with a token or by naming the account.

        Once this has answered, the account has no session and cannot log in. This server uses no identity server, so
        there is nothing to unbind.
        """
        body = request.json_object()
        convert({key: value for key, value in body.items() if key != "auth"}, DeactivationBody)
        passed = await self._auth.check(self._demand.of_account(request, "deactivate_account"), body)
        verified = VerifiedPassword.read(passed.results[PASSWORD])
        erase = convert(passed.request, DeactivationBody).erase
        if not await self._sessions.close_account(verified.user_id, erase=erase, verified_hash=verified.password_hash):
            raise wrong_password()
        await self._auth.end(passed)
        return json_response({"id_server_unbind_result": "success"})

    @CLEAR_ACCOUNT.handler
    async def clear_account(self, user_id: UserId, account: ClosedAccount) -> Empty:
        """Remove the data of a closed account. The background job repeats the call until it succeeds.

        This ends the devices again: requests under way at the closing may have stored keys and messages for them.
        """
        await self._sessions.end_all(user_id)
        await clear_account(self._database, user_id, account.erase)
        return EMPTY
