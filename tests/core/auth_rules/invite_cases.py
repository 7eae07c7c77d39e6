"""Cases of the rules about invites, including those that redeem a third-party invite."""

from typing import Any

from shared.core.signing import generate_signing_key, sign_json
from tests.core.auth_rules.case import Attempt, case
from tests.core.auth_rules.member_cases import change, room_with
from tests.core.rooms import ALICE, BOB, CAROL, DAVE, Room

_IDENTITY_KEY, _OTHER_KEY = generate_signing_key(b"i" * 32, "0"), generate_signing_key(b"o" * 32, "0")


@case("invite.sender")
def _(version: str, broken: bool) -> Attempt:
    return change(room_with(version, members={DAVE: "leave" if broken else "join"}), DAVE, BOB, "invite")


for _current in ("join", "ban"):
    for _other in (None, "leave", "invite", "knock"):

        @case("invite.target")
        def _(version: str, broken: bool, current: str = _current, other: str | None = _other) -> Attempt:
            return change(room_with(version, members={BOB: current if broken else other}), ALICE, BOB, "invite")


for _name in ("invite.level", "invite.otherwise"):

    @case(_name, denied_by="invite.otherwise")
    def _(version: str, broken: bool) -> Attempt:
        room = room_with(version, members={DAVE: "join"})
        room.power_levels(invite=1 if broken else 0)
        return change(room, DAVE, BOB, "invite")


# --- third-party invites -------------------------------------------------------------------------------------


def _room(version: str, content: dict[str, Any] | None = None, *, inviter: str = ALICE, bob: str = "leave") -> Room:
    """Return a room with Dave in it and a third-party invite whose token is "token"."""
    room = room_with(version, members={DAVE: "join", BOB: bob})
    if content is None:
        content = {"public_key": _IDENTITY_KEY.verify_key_base64}
    room.force("m.room.third_party_invite", inviter, content, "token")
    return room


def _signed(mxid: str = BOB, token: str = "token", key: Any = _IDENTITY_KEY) -> dict[str, Any]:
    return sign_json({"mxid": mxid, "token": token}, "id.example", key)


def _redeem(room: Room, signed: Any) -> Attempt:
    """Alice invites Bob with the object that the identity server signed."""
    return change(room, ALICE, BOB, "invite", third_party_invite={"display_name": "b", "signed": signed})


@case("third_party.banned")
def _(version: str, broken: bool) -> Attempt:
    return _redeem(_room(version, bob="ban" if broken else "leave"), _signed())


_UNSIGNED: tuple[Any, ...] = ({"display_name": "b"}, {"signed": None}, 1, None, [])
for _invite in _UNSIGNED:

    @case("third_party.signed")
    def _(version: str, broken: bool, invite: Any = _invite) -> Attempt:
        return change(
            _room(version), ALICE, BOB, "invite", third_party_invite=invite if broken else {"signed": _signed()}
        )


for _missing in ("mxid", "token"):

    @case("third_party.properties")
    def _(version: str, broken: bool, missing: str = _missing) -> Attempt:
        signed = _signed()
        return _redeem(_room(version), {k: v for k, v in signed.items() if not broken or k != missing})

    @case("third_party.properties")
    def _(version: str, broken: bool, missing: str = _missing) -> Attempt:
        return _redeem(_room(version), {**_signed(), **({missing: 1} if broken else {})})


@case("third_party.mxid")
def _(version: str, broken: bool) -> Attempt:
    return _redeem(_room(version), _signed(mxid=CAROL if broken else BOB))


@case("third_party.original")
def _(version: str, broken: bool) -> Attempt:
    return _redeem(_room(version), _signed(token="unknown" if broken else "token"))


@case("third_party.sender")
def _(version: str, broken: bool) -> Attempt:
    return _redeem(_room(version, inviter=DAVE if broken else ALICE), _signed())


for _name in ("third_party.signature", "third_party.otherwise"):

    @case(_name, denied_by="third_party.otherwise")
    def _(version: str, broken: bool) -> Attempt:
        return _redeem(_room(version), _signed(key=_OTHER_KEY if broken else _IDENTITY_KEY))

    @case(_name, denied_by="third_party.otherwise")
    def _(version: str, broken: bool) -> Attempt:
        """Signed, but changed afterwards."""
        return _redeem(_room(version), {**_signed(), **({"more": 1} if broken else {})})

    @case(_name, denied_by="third_party.otherwise")
    def _(version: str, broken: bool) -> Attempt:
        """Any of the signatures is enough, whatever the others are."""
        signed = sign_json(_signed(key=_OTHER_KEY), "other.example", _OTHER_KEY if broken else _IDENTITY_KEY)
        signed["signatures"]["odd.example"] = {"ed25519:0": "%", "rsa:1": "A", "ed25519:1": 1}
        return _redeem(_room(version), signed)


@case("third_party.signature", denied_by="third_party.otherwise")
def _(version: str, broken: bool) -> Attempt:
    """The user who redeems the invite needs no level, and need not be in the room."""
    room = _room(version, inviter=CAROL)
    invite = {"signed": _signed(key=_OTHER_KEY if broken else _IDENTITY_KEY)}
    return change(room, CAROL, BOB, "invite", third_party_invite=invite)


@case("third_party.public_key", denied_by="third_party.otherwise")
def _(version: str, broken: bool) -> Attempt:
    key = _OTHER_KEY if broken else _IDENTITY_KEY
    return _redeem(_room(version, {"public_key": key.verify_key_base64, "public_keys": 1}), _signed())


@case("third_party.public_keys", denied_by="third_party.otherwise")
def _(version: str, broken: bool) -> Attempt:
    keys = [{"public_key": _OTHER_KEY.verify_key_base64}, 1]
    if not broken:
        keys.append({"public_key": _IDENTITY_KEY.verify_key_base64})
    return _redeem(_room(version, {"public_key": _OTHER_KEY.verify_key_base64, "public_keys": keys}), _signed())
