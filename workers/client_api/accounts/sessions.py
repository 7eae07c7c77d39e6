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
from shared.core.errors import MatrixError, invalid_param
from shared.core.identifiers import UserId, within_bytes
from shared.core.rows import DeviceListRow, SessionRow
from shared.core.slots import slot_of
from shared.http.request import Requester
from shared.operations.authenticate import TokenAuthenticator
from shared.runtime.clock import Clock
from shared.storage.accounts import tokens
from shared.storage.accounts.users import SET_ADMIN, UPGRADE_GUEST, Creation, NewSession, SetAdmin, UpgradeGuest
from shared.storage.engine.fenced import FencedStatement
from shared.storage.engine.pool import Database, transient_as_unavailable
from shared.storage.engine.statements import Parameters

MAX_DEVICE_NAME_CHARS = 1000
_DEVICE_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


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

    async def start(self, user_id: UserId, issued: Issued) -> None:
        """Store a session, and end the earlier tokens of the same device.

        Spec: client-server API, "Relationship between access tokens and devices".
        """
        session = issued.stored
        record = tokens.StartSession(
            user_id=user_id,
            device_id=session.device_id,
            display_name=session.display_name,
            access_hash=session.access_hash,
            expires_ms=session.expires_ms,
            refresh_hash=session.refresh_hash,
            now_ms=self._clock.now_ms(),
        )
        row = await self._write(tokens.START_SESSION, record)
        if row["position"] is not None:
            self._announce([(row["position"], user_id, session.device_id)])
        self._announce_device_list(user_id, row["list_position"])

    async def refresh(self, refresh_token: str) -> Issued:
        """Return the next pair of tokens. Raises MatrixError M_UNKNOWN_TOKEN, 401. Spec: "Token refresh flow"."""
        shown = tokens.hash_token(refresh_token)
        session = await tokens.get_refresh_token(self._database, shown)
        now_ms = self._clock.now_ms()
        lifetime_s = self._config.refresh_token_lifetime_s
        if session is None or (lifetime_s is not None and session.created_ms + lifetime_s * 1000 <= now_ms):
            raise _unknown_refresh_token()
        issued = self.issue(session.user_id, session.device_id, None, refreshable=True)
        record = tokens.RefreshSession(
            user_id=session.user_id,
            device_id=session.device_id,
            shown_hash=shown,
            access_hash=issued.stored.access_hash,
            expires_ms=issued.stored.expires_ms,
            refresh_hash=issued.stored.refresh_hash,
            now_ms=now_ms,
        )
        row = await self._write(tokens.REFRESH_SESSION, record)
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
        record = tokens.EndToken(
            user_id=requester.user_id, access_hash=requester.token_hash, now_ms=self._clock.now_ms()
        )
        row = await self._write(tokens.END_TOKEN, record)
        self._announce([(row["position"], requester.user_id, None)])

    async def end_devices(self, user_id: UserId, device_ids: Sequence[str]) -> None:
        """Delete devices with their tokens, keys and messages. Skip devices that do not exist."""
        if not device_ids:
            return
        record = tokens.EndDevices(user_id=user_id, device_ids=list(device_ids), now_ms=self._clock.now_ms())
        row = await self._write(tokens.END_DEVICES, record)
        self._announce([(at, user_id, device) for at, device in zip(row["positions"], row["devices"], strict=True)])
        self._announce_device_list(user_id, row["list_position"])

    async def end_all(self, user_id: UserId, *, but: Requester | None = None) -> None:
        """Delete all devices and tokens of a user, except those of the session `but`."""
        record = tokens.EndAllSessions(
            user_id=user_id,
            kept_device=but.device_id if but else None,
            kept_access=but.token_hash if but else None,
            now_ms=self._clock.now_ms(),
        )
        row = await self._write(tokens.END_ALL_SESSIONS, record)
        self._announce([(row["position"], user_id, None)])
        self._announce_device_list(user_id, row["list_position"])

    async def set_admin(self, user_id: UserId, *, admin: bool) -> bool:
        """Change whether a user is an administrator, also for present sessions; False if there is no such account."""
        record = SetAdmin(user_id=user_id, is_admin=admin, now_ms=self._clock.now_ms())
        row = await self._write(SET_ADMIN, record)
        if row["position"] is None:
            return False
        self._announce([(row["position"], user_id, None)])
        return True

    async def upgrade_guest(
        self, user_id: UserId, password_hash: str, displayname: str | None, registration_token: str | None
    ) -> Creation:
        """Make a guest a user. Their sessions stay. displayname: for an account that has none."""
        name = None if displayname is None else orjson.dumps(displayname)
        record = UpgradeGuest(
            user_id=user_id,
            password_hash=password_hash,
            displayname=name,
            now_ms=self._clock.now_ms(),
            registration_token=registration_token,
        )
        row = await self._write(UPGRADE_GUEST, record)
        if row["position"] is not None:
            self._announce([(row["position"], user_id, None)])
        return Creation(row["position"] is not None, row["token_accepted"])

    async def rename_device(self, user_id: UserId, device_id: str, name: str) -> bool:
        """Set the display name of a device. Return False if there is no such device."""
        record = tokens.RenameDevice(
            user_id=user_id, device_id=device_id, display_name=name, now_ms=self._clock.now_ms()
        )
        row = await self._write(tokens.RENAME_DEVICE, record)
        self._announce_device_list(user_id, row["list_position"])
        return bool(row["found"])

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
