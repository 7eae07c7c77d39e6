"""Sessions of devices: makes tokens, stores their hashes, and ends them with a row of the stream `sessions`."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson

from replication.streams import DEVICE_LISTS, SESSIONS
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter
from shared.config.sections import Accounts
from shared.core.access_tokens import format_access_token
from shared.core.errors import MatrixError, Unavailable, invalid_param
from shared.core.identifiers import UserId, within_bytes
from shared.core.rows import DeviceListRow, SessionRow
from shared.core.slots import slot_of
from shared.http.request import Requester
from shared.operations.authenticate import TokenAuthenticator
from shared.runtime.clock import Clock
from shared.storage.accounts import session_statements, tokens
from shared.storage.accounts.devices import RENAME_DEVICE, RenameDevice
from shared.storage.accounts.session_statements import must_repeat
from shared.storage.accounts.users import SET_ADMIN, Creation, NewSession, SetAdmin
from shared.storage.engine.fenced import FencedStatement
from shared.storage.engine.pool import Database, transient_as_unavailable
from shared.storage.engine.statements import Parameters

MAX_DEVICE_NAME_CHARS = 1000
_DEVICE_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#: Another process may come between this often. Each time takes some milliseconds.
_TRIES = 30


@dataclass(frozen=True, slots=True)
class Issued:
    """A new session with its tokens in the clear. They go into one answer and are stored nowhere."""

    stored: NewSession
    access_token: str
    refresh_token: str | None
    expires_in_ms: int | None

    def answer(self) -> dict[str, Any]:
        """Return the keys that answers to log-in, registration and refresh share."""
        keys: dict[str, Any] = {"access_token": self.access_token}
        if self.refresh_token is not None:
            keys["refresh_token"] = self.refresh_token
        if self.expires_in_ms is not None:
            keys["expires_in_ms"] = self.expires_in_ms
        return keys


class TooManyDevices(Exception):
    """The user has as many devices as they may have."""


class Sessions:
    """Begins and ends sessions of local users."""

    def __init__(
        self,
        database: Database,
        writer: FencedWriter,
        announcer: Announcer,
        authenticator: TokenAuthenticator,
        clock: Clock,
        config: Accounts,
    ) -> None:
        self._database = database
        self._writer = writer
        self._announcer = announcer
        self._authenticator = authenticator
        self._clock = clock
        self._config = config

    def issue(self, user_id: UserId, device_id: str | None, display_name: str | None, *, refreshable: bool) -> Issued:
        """Make the tokens of a new session, without storing anything.

        device_id: None: a random one. Raises MatrixError M_INVALID_PARAM for an invalid device id or name.
        """
        if device_id is None:
            device_id = "".join(secrets.choice(_DEVICE_ID_LETTERS) for _ in range(10))
        elif not device_id or "\x00" in device_id or not within_bytes(device_id):
            raise invalid_param("device_id must have 1 to 255 bytes")
        if display_name is not None and len(display_name) > MAX_DEVICE_NAME_CHARS:
            raise invalid_param(f"initial_device_display_name must have at most {MAX_DEVICE_NAME_CHARS} characters")
        lifetime_s = (
            self._config.refreshable_access_token_lifetime_s if refreshable else self._config.access_token_lifetime_s
        )
        access = format_access_token(slot_of(user_id), secrets.token_urlsafe(32))
        refresh = f"skr_{secrets.token_urlsafe(32)}" if refreshable else None
        stored = NewSession(
            device_id=device_id,
            display_name=display_name,
            access_hash=tokens.hash_token(access),
            expires_ms=self._clock.now_ms() + lifetime_s * 1000 if lifetime_s is not None else None,
            refresh_hash=tokens.hash_token(refresh) if refresh is not None else None,
        )
        return Issued(stored, access, refresh, lifetime_s * 1000 if lifetime_s is not None else None)

    async def start(
        self,
        user_id: UserId,
        issued: Issued,
        verified_hash: str | None,
        address: str | None = None,
        max_devices: int | None = None,
    ) -> bool:
        """Store a session, and end the earlier tokens of the same device.

        verified_hash: the password hash that was verified.
        address: where the log-in came from, to remember it.
        max_devices: the most that the user may have, the session's included. None: no limit.
        Return False if this is no longer the account's hash, or if the account is closed. Raises TooManyDevices.
        Spec: client-server API, "Relationship between access tokens and devices".
        """
        session = issued.stored
        record = session_statements.StartSession(
            user_id=user_id,
            device_id=session.device_id,
            display_name=session.display_name,
            access_hash=session.access_hash,
            expires_ms=session.expires_ms,
            refresh_hash=session.refresh_hash,
            now_ms=self._clock.now_ms(),
            verified_hash=verified_hash,
            address=address,
            max_devices=max_devices,
        )
        row = await self._take_turn(session_statements.START_SESSION, record)
        if not row["has_place"]:
            raise TooManyDevices
        if not row["done"]:
            return False
        if row["position"] is not None:
            self._announce([(row["position"], user_id, session.device_id)])
        self._announce_device_list(user_id, row["list_position"])
        return True

    async def refresh(self, refresh_token: str) -> Issued:
        """Return the next pair of tokens. Raises MatrixError M_UNKNOWN_TOKEN, 401. Spec: "Token refresh flow"."""
        shown = tokens.hash_token(refresh_token)
        session = await tokens.get_refresh_token(self._database, shown)
        now_ms = self._clock.now_ms()
        lifetime_s = self._config.refresh_token_lifetime_s
        if session is None or (lifetime_s is not None and session.created_ms + lifetime_s * 1000 <= now_ms):
            raise _unknown_refresh_token()
        issued = self.issue(session.user_id, session.device_id, None, refreshable=True)
        record = session_statements.RefreshSession(
            user_id=session.user_id,
            device_id=session.device_id,
            shown_hash=shown,
            access_hash=issued.stored.access_hash,
            expires_ms=issued.stored.expires_ms,
            refresh_hash=issued.stored.refresh_hash,
            now_ms=now_ms,
        )
        row = await self._take_turn(session_statements.REFRESH_SESSION, record)
        if row["refreshed"] == 0:  # the session ended since it was read
            raise _unknown_refresh_token()
        if row["position"] is not None:
            self._announce([(row["position"], session.user_id, session.device_id)])
        return issued

    async def end(self, requester: Requester) -> None:
        """Log out: delete the device of the token with all its tokens. A token without a device is deleted alone."""
        if requester.device_id is not None:
            await self.end_devices(requester.user_id, [requester.device_id])
            return
        record = session_statements.EndToken(
            user_id=requester.user_id, access_hash=requester.token_hash, now_ms=self._clock.now_ms()
        )
        row = await self._take_turn(session_statements.END_TOKEN, record)
        if row["done"]:
            self._announce([(row["position"], requester.user_id, None)])

    async def end_devices(
        self, user_id: UserId, device_ids: Sequence[str], *, verified_hash: str | None = None
    ) -> bool:
        """Delete devices with their tokens, keys and messages. Skip devices that do not exist.

        verified_hash: the password hash that was verified, None if no password was needed. Return False if this is no
        longer the account's hash.
        """
        if not device_ids:
            return True
        record = session_statements.EndDevices(
            user_id=user_id, device_ids=list(device_ids), verified_hash=verified_hash, now_ms=self._clock.now_ms()
        )
        row = await self._take_turn(session_statements.END_DEVICES, record)
        if not row["done"]:
            return False
        self._announce([(at, user_id, device) for at, device in zip(row["positions"], row["devices"], strict=True)])
        self._announce_device_list(user_id, row["list_position"])
        return True

    async def end_all(self, user_id: UserId) -> None:
        """Delete all devices and tokens of a user."""
        record = session_statements.EndAllSessions(
            user_id=user_id, kept_device=None, kept_access=None, now_ms=self._clock.now_ms()
        )
        await self._end_all(user_id, session_statements.END_ALL_SESSIONS, record)

    async def set_password(
        self,
        user_id: UserId,
        password_hash: str,
        verified_hash: str | None,
        *,
        ends_sessions: bool,
        but: Requester | None = None,
    ) -> bool:
        """Set a password and end all sessions, except that of `but`, in one step.

        verified_hash: the hash that the old password matched; None if no password was needed. Return False if this is
        no longer the account's hash, or if the account is a guest's, closed or unknown.
        """
        record = session_statements.SetPassword(
            user_id=user_id,
            password_hash=password_hash,
            verified_hash=verified_hash,
            ends_sessions=ends_sessions,
            kept_device=but.device_id if but else None,
            kept_access=but.token_hash if but else None,
            now_ms=self._clock.now_ms(),
        )
        return await self._end_all(user_id, session_statements.SET_PASSWORD, record)

    async def close_account(self, user_id: UserId, *, erase: bool, verified_hash: str | None) -> bool:
        """Close an account and end all its sessions, in one step. A background job clears up afterwards.

        verified_hash: as in `set_password`. Return False if this is no longer the account's hash, or if there is no
        such account.
        """
        record = session_statements.CloseAccount(
            user_id=user_id,
            erase=erase,
            verified_hash=verified_hash,
            kept_device=None,
            kept_access=None,
            now_ms=self._clock.now_ms(),
        )
        return await self._end_all(user_id, session_statements.CLOSE_ACCOUNT, record)

    async def set_admin(self, user_id: UserId, *, admin: bool) -> bool:
        """Change whether a user is an administrator, also for present sessions; False if there is no such account."""
        record = SetAdmin(user_id=user_id, is_admin=admin, now_ms=self._clock.now_ms())
        row = await self._write(SET_ADMIN, record)
        if row["position"] is None:
            return False
        self._announce([(row["position"], user_id, None)])
        return True

    async def upgrade_guest(
        self,
        user_id: UserId,
        guest_hash: bytes,
        password_hash: str,
        displayname: str | None,
        registration_token: str | None,
    ) -> Creation:
        """Make a guest a user. Their sessions stay.

        guest_hash: of the guest's access token, which must still be valid.
        displayname: for an account that has none.
        """
        name = None if displayname is None else orjson.dumps(displayname)
        record = session_statements.UpgradeGuest(
            user_id=user_id,
            guest_hash=guest_hash,
            password_hash=password_hash,
            displayname=name,
            now_ms=self._clock.now_ms(),
            registration_token=registration_token,
        )
        row = await self._take_turn(session_statements.UPGRADE_GUEST, record)
        if row["position"] is not None:
            self._announce([(row["position"], user_id, None)])
        return Creation(bool(row["done"]), row["token_accepted"])

    async def rename_device(self, user_id: UserId, device_id: str, name: str) -> bool:
        """Set the display name of a device. Return False if there is no such device."""
        record = RenameDevice(user_id=user_id, device_id=device_id, display_name=name, now_ms=self._clock.now_ms())
        row = await self._write(RENAME_DEVICE, record)
        self._announce_device_list(user_id, row["list_position"])
        return bool(row["found"])

    async def _end_all(self, user_id: UserId, statement: FencedStatement[Parameters], record: Parameters) -> bool:
        row = await self._take_turn(statement, record)
        if row["position"] is not None:
            self._announce([(row["position"], user_id, None)])
        self._announce_device_list(user_id, row["list_position"])
        return bool(row["done"])

    async def _take_turn(self, statement: FencedStatement[Parameters], record: Parameters) -> asyncpg.Record:
        """Run a statement of `session_statements.py` until no other came between. Raises Unavailable."""
        for _ in range(_TRIES):
            row = await self._write(statement, record)
            if not must_repeat(row):
                return row
        raise Unavailable("This account's sessions change too often just now")

    async def _write(self, statement: FencedStatement[Parameters], record: Parameters) -> asyncpg.Record:
        with transient_as_unavailable():
            return await self._writer.write(statement, record, streams=(SESSIONS.name, DEVICE_LISTS.name))

    def _announce(self, changes: Sequence[tuple[int, UserId, str | None]]) -> None:
        rows = [
            SessionRow(position=at, writer=self._writer.lease, user_id=user_id, device_id=device)
            for at, user_id, device in changes
        ]
        # This process forgets the token at once, the others by replication.
        self._authenticator.apply_sessions(rows)
        self._announcer.announce(SESSIONS, rows)

    def _announce_device_list(self, user_id: UserId, position: int | None) -> None:
        """position: None if nothing changed."""
        if position is not None:
            self._announcer.announce(
                DEVICE_LISTS, [DeviceListRow(position=position, writer=self._writer.lease, user_id=user_id)]
            )


def _unknown_refresh_token() -> MatrixError:
    return MatrixError("M_UNKNOWN_TOKEN", "The refresh token is unknown or has expired", 401)
