"""Changes of accounts by operators, in calls with the fleet's secret. `skep user` makes them; each may be repeated."""

from replication.calls.users import CLOSE_ACCOUNT, RESET_PASSWORD, SET_ADMIN, AdminRights, ClosedAccount, NewPassword
from replication.streams.fenced_writer import FencedWriter
from shared.core.errors import MatrixError, invalid_param
from shared.core.identifiers import UserId
from shared.http.internal_calls import EMPTY, Empty
from shared.operations.passwords import PasswordHasher
from shared.runtime.clock import Clock
from shared.storage.accounts import deactivation
from shared.storage.accounts.users import SET_PASSWORD, SetPassword
from shared.storage.engine.pool import transient_as_unavailable
from workers.client_api.accounts.sessions import Sessions


class AccountAdministration:
    def __init__(self, writer: FencedWriter, hasher: PasswordHasher, sessions: Sessions, clock: Clock) -> None:
        self._writer = writer
        self._hasher = hasher
        self._sessions = sessions
        self._clock = clock

    @RESET_PASSWORD.handler
    async def reset_password(self, user_id: UserId, new: NewPassword) -> Empty:
        if "\x00" in new.password:
            raise invalid_param("A password must not contain NUL")
        self._hasher.check_strength(new.password)
        new_hash = await self._hasher.hash(new.password)
        with transient_as_unavailable():
            row = await self._writer.write(SET_PASSWORD, SetPassword(user_id=user_id, password_hash=new_hash))
        if not row["changed"]:
            raise _no_such_account(user_id)
        if new.logout_devices:
            await self._sessions.end_all(user_id)
        return EMPTY

    @CLOSE_ACCOUNT.handler
    async def close_account(self, user_id: UserId, account: ClosedAccount) -> Empty:
        with transient_as_unavailable():
            record = deactivation.CloseAccount(user_id=user_id, erase=account.erase, now_ms=self._clock.now_ms())
            row = await self._writer.write(deactivation.CLOSE_ACCOUNT, record)
        if not row["closed"]:
            raise _no_such_account(user_id)
        await self._sessions.end_all(user_id)
        return EMPTY

    @SET_ADMIN.handler
    async def set_admin(self, user_id: UserId, rights: AdminRights) -> Empty:
        if not await self._sessions.set_admin(user_id, admin=rights.admin):
            raise _no_such_account(user_id)
        return EMPTY


def _no_such_account(user_id: UserId) -> MatrixError:
    return MatrixError("M_NOT_FOUND", f"{user_id} is no account of this server, or is a guest or deactivated", 404)
