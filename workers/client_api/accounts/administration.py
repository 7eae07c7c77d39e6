"""Changes of accounts by operators, in calls with the fleet's secret. `skep user` makes them; each may be repeated."""

from replication.calls.users import CLOSE_ACCOUNT, RESET_PASSWORD, SET_ADMIN, AdminRights, ClosedAccount, NewPassword
from shared.core.errors import MatrixError, invalid_param
from shared.core.identifiers import UserId
from shared.http.internal_calls import EMPTY, Empty
from shared.operations.passwords import PasswordHasher
from workers.client_api.accounts.sessions import Sessions


class AccountAdministration:
    def __init__(self, hasher: PasswordHasher, sessions: Sessions) -> None:
        self._hasher = hasher
        self._sessions = sessions

    @RESET_PASSWORD.handler
    async def reset_password(self, user_id: UserId, new: NewPassword) -> Empty:
        if "\x00" in new.password:
            raise invalid_param("A password must not contain NUL")
        self._hasher.check_strength(new.password)
        new_hash = await self._hasher.hash(new.password)
        if not await self._sessions.set_password(user_id, new_hash, None, ends_sessions=new.logout_devices):
            raise _no_such_account(user_id)
        return EMPTY

    @CLOSE_ACCOUNT.handler
    async def close_account(self, user_id: UserId, account: ClosedAccount) -> Empty:
        if not await self._sessions.close_account(user_id, erase=account.erase, verified_hash=None):
            raise _no_such_account(user_id)
        return EMPTY

    @SET_ADMIN.handler
    async def set_admin(self, user_id: UserId, rights: AdminRights) -> Empty:
        if not await self._sessions.set_admin(user_id, admin=rights.admin):
            raise _no_such_account(user_id)
        return EMPTY


def _no_such_account(user_id: UserId) -> MatrixError:
    return MatrixError("M_NOT_FOUND", f"{user_id} is no account of this server, or is a guest or deactivated", 404)
