"""The writer of account data: a fenced statement, then its row on the stream."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from replication.calls.applied_rows import RoomOwners
from replication.streams import ACCOUNT_DATA, PUSH_RULES
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter
from shared.core.errors import MatrixError, Unavailable
from shared.core.identifiers import RoomId, UserId, is_user_id
from shared.core.rows import GLOBAL, AccountDataRow, PushRulesRow
from shared.operations.quotas import UserQuotas
from shared.runtime.keyed_locks import KeyedLocks
from shared.storage.engine.pool import Database, transient_as_unavailable
from shared.storage.push.rules import SET_IGNORED_USERS, SetIgnoredUsers
from shared.storage.user_data.account_data import SET_ACCOUNT_DATA, SetAccountData, get_account_data, ignored_in

IGNORED_USERS = "m.ignored_user_list"
#: The list is decoded for each read of a room's history. An id has at most 255 bytes, and seldom more than 50.
_MAX_IGNORED_BYTES = 262_144
_ATTEMPTS = 5  # with the lock held, only another process can be in the way


class AccountDataWriter:
    def __init__(
        self,
        database: Database,
        writer: FencedWriter,
        announcer: Announcer,
        room_owners: RoomOwners,
        quotas: UserQuotas,
        *,
        max_ignored_users: int,
    ) -> None:
        self._database = database
        self._quotas = quotas
        self._max_ignored_users = max_ignored_users
        self._writer = writer
        self._announcer = announcer
        self._room_owners = room_owners
        self._locks = KeyedLocks()

    def lock(self, user_id: UserId) -> AbstractAsyncContextManager[None]:
        """Return the lock of a user's account data. Changes that depend on what is stored hold it.

        `change` does so itself. Another process writes only while the user's slot moves.
        """
        return self._locks.hold(user_id)

    async def get(self, user_id: UserId, room_id: RoomId, type_: str) -> bytes | None:
        """Return an entry's JSON; None if there is no entry. room_id: perhaps GLOBAL."""
        return (await get_account_data(self._database, user_id, room_id, type_)).json

    async def set(
        self,
        user_id: UserId,
        room_id: RoomId,
        type_: str,
        json: bytes | None,
        *,
        expected: int | None = None,
    ) -> bool:
        """Store and announce an entry. Return False if it was changed meanwhile.

        room_id: perhaps GLOBAL.
        json: None: delete the entry.
        expected: write only if the entry still has this position; 0: only if there is no entry.
        Raises M_USER_LIMIT_EXCEEDED if the user has too much account data for it.
        """
        if room_id == GLOBAL and type_ == IGNORED_USERS:
            return await self._set_ignored_users(user_id, json, expected)
        with transient_as_unavailable():
            record = SetAccountData(
                user_id=user_id,
                room_id=room_id,
                type=type_,
                json=json,
                expected=expected,
                max_bytes=self._quotas.limits.account_data_bytes,
            )
            row = await self._writer.write(SET_ACCOUNT_DATA, record, streams=(ACCOUNT_DATA.name,))
        self._check_fits(row["fits"])
        if row["position"] is None:
            return False
        self._announcer.announce(
            ACCOUNT_DATA,
            [
                AccountDataRow(
                    position=row["position"],
                    writer=self._writer.lease,
                    user_id=user_id,
                    room_id=room_id,
                    type=type_,
                    json=json,
                )
            ],
        )
        return True

    async def _set_ignored_users(self, user_id: UserId, json: bytes | None, expected: int | None) -> bool:
        """Store and announce the list of ignored users. Owners of rooms apply it: ignored users do not notify.

        Raises M_TOO_LARGE.
        """
        if json is not None and len(json) > _MAX_IGNORED_BYTES:
            raise _too_large(f"The list of ignored users must have at most {_MAX_IGNORED_BYTES} bytes")
        listed = ignored_in(json or b"{}")
        if len(listed) > self._max_ignored_users:
            raise _too_large(f"You can ignore at most {self._max_ignored_users} users. Remove some from the list first")
        ignored = sorted({other for other in listed if is_user_id(other)})
        with transient_as_unavailable():
            record = SetIgnoredUsers(
                user_id=user_id,
                json=json,
                ignored=ignored,
                expected=expected,
                max_bytes=self._quotas.limits.account_data_bytes,
            )
            row = await self._writer.write(SET_IGNORED_USERS, record, streams=(ACCOUNT_DATA.name, PUSH_RULES.name))
        self._check_fits(row["fits"])
        if row["position"] is None:
            return False
        lease = self._writer.lease
        data = AccountDataRow(
            position=row["position"], writer=lease, user_id=user_id, room_id=GLOBAL, type=IGNORED_USERS, json=json
        )
        rules = PushRulesRow(
            position=row["rules_position"], writer=lease, user_id=user_id, rules=row["rules"], ignored=tuple(ignored)
        )
        self._announcer.announce(ACCOUNT_DATA, [data])
        self._announcer.announce(PUSH_RULES, [rules])
        await self._room_owners.wait_until_applied(PUSH_RULES, lease, rules.position)
        return True

    def _check_fits(self, fits: bool) -> None:
        if not fits:
            most = self._quotas.limits.account_data_bytes
            raise self._quotas.exceeded(
                "account_data_bytes", f"Your account data may take at most {most} bytes. Delete or shorten some first"
            )

    async def change(
        self,
        user_id: UserId,
        room_id: RoomId,
        type_: str,
        new_value: Callable[[bytes | None], bytes | None],
    ) -> None:
        """Replace an entry by the result of `new_value`, and retry if it is changed meanwhile.

        new_value: returns None to leave the entry as it is. Raises Unavailable after five attempts.
        """
        async with self.lock(user_id):
            for _ in range(_ATTEMPTS):
                entry = await get_account_data(self._database, user_id, room_id, type_)
                json = new_value(entry.json)
                if json is None or await self.set(user_id, room_id, type_, json, expected=entry.position):
                    return
        raise Unavailable("Other processes keep changing this account data")


def _too_large(message: str) -> MatrixError:
    return MatrixError("M_TOO_LARGE", message, 413)
