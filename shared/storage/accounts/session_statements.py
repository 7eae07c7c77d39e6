"""The fenced statements that begin, renew and end sessions, and those that change what sessions rest on.

All of them for one user take turns: `users.session_turn` counts them. A statement sees the database as it was when the
statement began. If another one committed meanwhile, this one would miss that one's new rows: a log-in would outlive the
change of its password, a refreshed session the log-out of its device. So each statement compares the turn that it sees
with the turn of the row that it locks. If they differ, it writes nothing, and the caller runs it again
(`must_repeat`). The same holds for what was checked before: the caller names the password hash that it verified, and
the statement does nothing if the account has another one: `done` is 0.

A statement that deletes a valid token also writes a row of the stream `sessions`, so that every process drops it from
its cache. The statement's answer has the row's position.
Spec: client-server API, "Client Authentication".
"""

import asyncpg

from shared.core.identifiers import UserId
from shared.storage.encryption.device_lists import CHANGE_PART
from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.statements import parameters

#: Addresses of earlier log-ins kept per user, the latest (`login_attempts.py`).
MAX_LOGIN_ADDRESSES = 20


@parameters
class NewTokens:
    """The tokens of a session, by their hashes.

    device_id: whose tokens they are.
    expires_ms: when the access token ends. None: never.
    refresh_hash: None if there is no refresh token.
    """

    user_id: UserId
    device_id: str
    access_hash: bytes
    expires_ms: int | None
    refresh_hash: bytes | None
    now_ms: int


@parameters
class StartSession(NewTokens):
    """A session to begin.

    display_name: of a device that is new.
    verified_hash: the password hash that the user's password matched. None: the account has no password.
    address: where the log-in came from, to remember it. None: remember nothing.
    max_devices: the most that the user may have with this one. None: no limit.
    """

    display_name: str | None
    verified_hash: str | None
    address: str | None
    max_devices: int | None


@parameters
class RefreshSession(NewTokens):
    """shown_hash: of the refresh token that the client showed."""

    shown_hash: bytes


@parameters
class EndDevices:
    """verified_hash: the password hash that the user's password matched. None: no password was needed."""

    user_id: UserId
    device_ids: list[str]
    verified_hash: str | None
    now_ms: int


@parameters
class EndAllSessions:
    """The device and the access token that stay. None: none."""

    user_id: UserId
    kept_device: str | None
    kept_access: bytes | None
    now_ms: int


@parameters
class SetPassword(EndAllSessions):
    """A new password.

    verified_hash: the present hash, which the old password matched. None: an operator sets the password.
    ends_sessions: True if all sessions end but the one to keep.
    """

    password_hash: str
    verified_hash: str | None
    ends_sessions: bool


@parameters
class CloseAccount(EndAllSessions):
    """An account to close.

    erase: True to erase what the user sent. Users who join a room after `now_ms` see redacted copies.
    verified_hash: as in SetPassword.
    """

    erase: bool
    verified_hash: str | None


@parameters
class EndToken:
    user_id: UserId
    access_hash: bytes
    now_ms: int


@parameters
class UpgradeGuest:
    """A guest who becomes a user.

    guest_hash: of the guest's access token, which must still be valid.
    displayname: for an account without one, as JSON. None: none.
    registration_token: None: none is needed.
    """

    user_id: UserId
    guest_hash: bytes
    password_hash: str
    displayname: bytes | None
    now_ms: int
    registration_token: str | None


_OUTCOME = """(SELECT count(*) FROM account) AS done,
    coalesce((SELECT allowed FROM before), false) AS allowed"""


def must_repeat(row: asyncpg.Record) -> bool:
    """Return True if another statement came between: this one wrote nothing, and the same one may succeed now."""
    return bool(row["allowed"]) and not row["done"]


def _take_turn(allowed: str, change: str = "") -> dict[str, str]:
    """Return the parts of a statement that takes its turn. Each of its writes takes rows from the part `account`.

    allowed: the condition on the account. Whatever it reads is changed by statements that take turns only.
    change: further columns of `users` to set, with a comma before each.
    """
    return {
        "before": f"SELECT session_turn, coalesce({allowed}, false) AS allowed FROM users WHERE user_id = :user_id",
        "account": f"""
            UPDATE users SET session_turn = users.session_turn + 1{change} FROM fence, before
            WHERE users.user_id = :user_id AND users.session_turn = before.session_turn AND before.allowed
            RETURNING users.user_id
        """,
    }


_PASSWORD_IS_VERIFIED = "(:verified_hash::text IS NULL OR password_hash = :verified_hash)"  # noqa: S105
_CHANGE_COLUMNS = "INSERT INTO session_changes (writer, position, user_id, device_id, changed_ms)"
_NEXT = "nextval('stream_sessions')"
_INSERT_ACCESS = """
    INSERT INTO access_tokens (token_hash, user_id, device_id, expires_ms, refresh_hash, created_ms)
    SELECT :access_hash, :user_id, :device_id, :expires_ms, :refresh_hash, :now_ms FROM {source}
"""
_INSERT_REFRESH = """
    INSERT INTO refresh_tokens (token_hash, user_id, device_id, created_ms)
    SELECT :refresh_hash, :user_id, :device_id, :now_ms FROM {source} WHERE :refresh_hash::bytea IS NOT NULL
"""
#: Uses uia_sessions_by_user.
_END_INTERACTIVE = "DELETE FROM uia_sessions i USING fence, account WHERE i.user_id = :user_id"


def _delete_what_devices_have(which: str, source: str) -> dict[str, str]:
    """Return the parts that delete keys, messages and connections of the devices that the part `ended` deletes.

    which: a condition on `device_id`.
    source: the part that has a row if they end.
    """
    deletion = f"DELETE FROM {{table}} x USING fence, {source} WHERE x.user_id = :user_id AND {which}"
    return {
        "identity": deletion.format(table="device_keys"),
        "one_time": deletion.format(table="one_time_keys"),
        "fallback": deletion.format(table="fallback_keys"),
        "inbox": deletion.format(table="to_device_messages"),
        "sent": deletion.format(table="to_device_transactions"),
        "sliding": deletion.format(table="sliding_states"),
        "list_change": CHANGE_PART.format(source="ended"),
    }


def _end_all(source: str) -> dict[str, str]:
    """Return the parts that end all sessions but the one to keep. source: the part that has a row if they end."""
    other_devices = "x.user_id = :user_id AND x.device_id IS DISTINCT FROM :kept_device"
    return {
        "ended": f"DELETE FROM devices x USING fence, {source} WHERE {other_devices} RETURNING 1",
        "access": f"""
            DELETE FROM access_tokens x USING fence, {source}
            WHERE x.user_id = :user_id AND x.token_hash IS DISTINCT FROM :kept_access
              AND (x.device_id IS DISTINCT FROM :kept_device OR x.device_id IS NULL)
        """,
        "refresh": f"DELETE FROM refresh_tokens x USING fence, {source} WHERE {other_devices}",
        "change": f"""
            {_CHANGE_COLUMNS}
            SELECT :lease, {_NEXT}, :user_id, NULL, :now_ms FROM fence, {source} RETURNING position
        """,
        **_delete_what_devices_have("x.device_id IS DISTINCT FROM :kept_device", source),
    }


_POSITIONS = "(SELECT position FROM change) AS position, (SELECT position FROM list_change) AS list_position"
_OF_DEVICE = "x.user_id = :user_id AND x.device_id = :device_id"
#: The device may have had a session: its earlier tokens end. Uses access_tokens_by_user, refresh_tokens_by_user.
START_SESSION = fenced_statement(
    "start_session",
    StartSession,
    {
        "place": f"""
            SELECT :max_devices::bigint IS NULL OR EXISTS (SELECT 1 FROM devices x WHERE {_OF_DEVICE})
                OR :max_devices > (SELECT count(*) FROM devices x WHERE x.user_id = :user_id) AS is_free
        """,
        **_take_turn(
            """NOT deactivated AND password_hash IS NOT DISTINCT FROM :verified_hash AND (SELECT is_free FROM place)"""
        ),
        "device": """
            INSERT INTO devices (user_id, device_id, display_name, created_ms)
            SELECT :user_id, :device_id, :display_name, :now_ms FROM fence, account
            ON CONFLICT (user_id, device_id) DO NOTHING RETURNING 1
        """,
        "list_change": CHANGE_PART.format(source="device"),
        # They were sent to an earlier device of this name at the moment when it went.
        "strays": f"""
            DELETE FROM to_device_messages x USING fence, account WHERE {_OF_DEVICE} AND EXISTS (SELECT FROM device)
        """,
        "ended": f"DELETE FROM access_tokens x USING fence, account WHERE {_OF_DEVICE} RETURNING 1",
        "ended_refresh": f"DELETE FROM refresh_tokens x USING fence, account WHERE {_OF_DEVICE}",
        "change": f"""
            {_CHANGE_COLUMNS}
            SELECT :lease, {_NEXT}, :user_id, :device_id, :now_ms FROM fence, account
            WHERE EXISTS (SELECT 1 FROM ended) RETURNING position
        """,
        "access": _INSERT_ACCESS.format(source="fence, account"),
        "refresh": _INSERT_REFRESH.format(source="fence, account"),
        "remembered": """
            INSERT INTO login_addresses (user_id, address, used_ms)
            SELECT :user_id, :address, :now_ms FROM fence, account WHERE :address::text IS NOT NULL
            ON CONFLICT (user_id, address) DO UPDATE SET used_ms = excluded.used_ms
        """,
        "forgotten": f"""
            DELETE FROM login_addresses x USING fence, account WHERE x.user_id = :user_id AND x.address IN (
                SELECT l.address FROM login_addresses l WHERE l.user_id = :user_id AND l.address <> :address
                ORDER BY l.used_ms DESC OFFSET {MAX_LOGIN_ADDRESSES - 1})
        """,
    },
    f"{_OUTCOME}, {_POSITIONS}, (SELECT is_free FROM place) AS has_place",
)

_OF_DEVICES = "x.user_id = :user_id AND x.device_id = ANY (:device_ids::text[])"
#: The devices go with their tokens, their keys and the messages for them.
END_DEVICES = fenced_statement(
    "end_devices",
    EndDevices,
    {
        **_take_turn(_PASSWORD_IS_VERIFIED),
        "ended": f"DELETE FROM devices x USING fence, account WHERE {_OF_DEVICES} RETURNING 1",
        "access": f"DELETE FROM access_tokens x USING fence, account WHERE {_OF_DEVICES}",
        "refresh": f"DELETE FROM refresh_tokens x USING fence, account WHERE {_OF_DEVICES}",
        "change": f"""
            {_CHANGE_COLUMNS}
            SELECT :lease, {_NEXT}, :user_id, d, :now_ms FROM fence, account, unnest(:device_ids::text[]) AS d
            RETURNING position, device_id
        """,
        **_delete_what_devices_have("x.device_id = ANY (:device_ids::text[])", "account"),
    },
    f"""{_OUTCOME},
       (SELECT array_agg(position ORDER BY position) FROM change) AS positions,
       (SELECT array_agg(device_id ORDER BY position) FROM change) AS devices,
       (SELECT position FROM list_change) AS list_position""",
)

#: As END_DEVICES, for all devices but one.
END_ALL_SESSIONS = fenced_statement(
    "end_all_sessions", EndAllSessions, {**_take_turn("true"), **_end_all("account")}, f"{_OUTCOME}, {_POSITIONS}"
)

#: The password, and in the same moment what the old one opened: sessions, refresh tokens, open interactive sessions. So
#: no crash leaves one of them behind. Guests and deactivated accounts have no password.
SET_PASSWORD = fenced_statement(
    "set_password",
    SetPassword,
    {
        **_take_turn(
            f"NOT deactivated AND kind <> 'guest' AND {_PASSWORD_IS_VERIFIED}", ", password_hash = :password_hash"
        ),
        "interactive": _END_INTERACTIVE,
        "ending": "SELECT 1 FROM account WHERE :ends_sessions",
        **_end_all("ending"),
    },
    f"{_OUTCOME}, {_POSITIONS}",
)

#: Closed accounts are marked at once and cleared up afterwards (`deactivation.py`), when the requests that began before
#: have ended: what they still store goes too. Closing one again may add `erase`.
CLOSE_ACCOUNT = fenced_statement(
    "close_account",
    CloseAccount,
    {
        **_take_turn(_PASSWORD_IS_VERIFIED, ", deactivated = true, password_hash = NULL"),
        "interactive": _END_INTERACTIVE,
        "to_clear": """
            INSERT INTO deactivations (user_id, erase, look_at)
            SELECT :user_id, :erase, clock_timestamp() + interval '2 seconds' FROM fence, account
            ON CONFLICT (user_id) DO UPDATE SET erase = deactivations.erase OR excluded.erase
        """,
        "erased": """
            INSERT INTO erased_users (user_id, erased_ms) SELECT :user_id, :now_ms FROM fence, account WHERE :erase
            ON CONFLICT (user_id) DO NOTHING
        """,
        **_end_all("account"),
    },
    f"{_OUTCOME}, {_POSITIONS}",
)

#: For a token without a device.
END_TOKEN = fenced_statement(
    "end_token",
    EndToken,
    {
        **_take_turn("true"),
        "access": """
            DELETE FROM access_tokens x USING fence, account
            WHERE x.token_hash = :access_hash AND x.user_id = :user_id
        """,
        "change": f"""
            {_CHANGE_COLUMNS}
            SELECT :lease, {_NEXT}, :user_id, NULL, :now_ms FROM fence, account RETURNING position
        """,
    },
    f"{_OUTCOME}, (SELECT position FROM change) AS position",
)

#: If the token that was shown is a successor, its predecessor ends now. If it has an unused successor already, because
#: the client missed that answer, that pair ends: there is never more than one.
REFRESH_SESSION = fenced_statement(
    "refresh_session",
    RefreshSession,
    {
        **_take_turn("NOT deactivated"),
        "shown": """
            SELECT r.token_hash, r.successor FROM fence, account, refresh_tokens r
            WHERE r.token_hash = :shown_hash AND r.user_id = :user_id AND r.device_id = :device_id FOR UPDATE OF r
        """,
        "before_it": "DELETE FROM refresh_tokens r USING fence, shown s WHERE r.successor = s.token_hash",
        "missed": "DELETE FROM refresh_tokens r USING fence, shown s WHERE r.token_hash = s.successor",
        "missed_access": """
            DELETE FROM access_tokens a USING fence, shown s
            WHERE a.user_id = :user_id AND a.device_id = :device_id AND a.refresh_hash = s.successor RETURNING 1
        """,
        "linked": """
            UPDATE refresh_tokens r SET successor = :refresh_hash FROM fence, shown s WHERE r.token_hash = s.token_hash
        """,
        "access": _INSERT_ACCESS.format(source="fence, shown"),
        "refresh": _INSERT_REFRESH.format(source="fence, shown"),
        "change": f"""
            {_CHANGE_COLUMNS}
            SELECT :lease, {_NEXT}, :user_id, :device_id, :now_ms FROM fence
            WHERE EXISTS (SELECT 1 FROM missed_access) RETURNING position
        """,
    },
    f"{_OUTCOME}, (SELECT count(*) FROM shown) AS refreshed, (SELECT position FROM change) AS position",
)

#: The row of the stream `sessions` lets every process read the account again, since authenticated sessions remember it.
#: `done` is 0 too if the registration token is refused.
UPGRADE_GUEST = fenced_statement(
    "upgrade_guest",
    UpgradeGuest,
    {
        "token": """
            SELECT token FROM fence, registration_tokens
            WHERE token = :registration_token AND (uses_allowed IS NULL OR completed + pending < uses_allowed)
              AND (expires_ms IS NULL OR expires_ms > :now_ms) FOR UPDATE OF registration_tokens
        """,
        "accepted": "SELECT 1 WHERE :registration_token::text IS NULL OR EXISTS (SELECT 1 FROM token)",
        **_take_turn(
            """kind = 'guest' AND NOT deactivated AND EXISTS (SELECT 1 FROM accepted)
               AND EXISTS (SELECT 1 FROM access_tokens t WHERE t.token_hash = :guest_hash AND t.user_id = :user_id)""",
            ", kind = 'user', password_hash = :password_hash",
        ),
        "counted": """
            UPDATE registration_tokens SET completed = completed + 1 FROM fence, account, token
            WHERE registration_tokens.token = token.token
        """,
        "profile": """
            INSERT INTO profiles (user_id, field, value)
            SELECT :user_id, 'displayname', :displayname FROM fence, account WHERE :displayname::bytea IS NOT NULL
            ON CONFLICT (user_id, field) DO NOTHING
        """,
        "change": f"""
            {_CHANGE_COLUMNS}
            SELECT :lease, {_NEXT}, :user_id, NULL, :now_ms FROM fence, account RETURNING position
        """,
    },
    f"""{_OUTCOME}, (SELECT position FROM change) AS position,
       EXISTS (SELECT 1 FROM accepted) AS token_accepted""",
)
