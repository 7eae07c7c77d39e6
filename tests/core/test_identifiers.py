"""Spec: appendices, "Identifier Grammar"."""

from collections.abc import Callable

import pytest

from shared.core import identifiers as ids
from shared.core.errors import MatrixError
from shared.core.identifiers import RoomId, UserId
from tests.core.spec_vectors import VECTORS

_HASH_ROOM = "!" + "A" * 43


def _refuses(check: Callable[[str], object], text: str) -> None:
    with pytest.raises(MatrixError) as caught:
        check(text)
    assert (caught.value.errcode, caught.value.status) == ("M_INVALID_PARAM", 400)


@pytest.mark.parametrize("name", VECTORS["server_names"]["valid"] + VECTORS["server_names"]["derived_valid"])
def test_valid_server_names(name: str) -> None:
    assert ids.check_server_name(name) == name


@pytest.mark.parametrize("name", [*VECTORS["server_names"]["derived_invalid"], "a\n", "d\x00", "a" * 256])
def test_bad_server_names(name: str) -> None:
    _refuses(ids.check_server_name, name)


@pytest.mark.parametrize(
    "user_id", VECTORS["user_ids"]["valid_new"] + VECTORS["user_ids"]["invalid_new_but_accepted_from_others"]
)
def test_user_ids_that_must_be_accepted(user_id: UserId) -> None:
    assert ids.check_user_id(user_id) == user_id
    localpart, server = ids.parse_user_id(user_id)
    assert f"@{localpart}:{server}" == user_id


@pytest.mark.parametrize(
    "user_id",
    [*VECTORS["user_ids"]["invalid_always"], "", "@", "@a:", "@a:b c", "@\ud800:d", "@" + "é" * 125 + ":d.org"],
)
def test_bad_user_ids(user_id: UserId) -> None:
    _refuses(ids.check_user_id, user_id)


def test_id_limit_counts_bytes() -> None:
    assert ids.is_user_id("@" + "a" * 252 + ":d")
    assert not ids.is_user_id("@" + "a" * 253 + ":d")
    assert ids.is_user_id("@" + "é" * 126 + ":d")
    assert not ids.is_user_id("@" + "é" * 127 + ":d")


@pytest.mark.parametrize("localpart", ["a", "a.b_c=d-e/f+0"])
def test_valid_localparts_for_new_users(localpart: str) -> None:
    assert ids.is_valid_localpart_for_registration(localpart)


@pytest.mark.parametrize("localpart", ["", "A", "é", "a b", "a:b", "a\n", "a*"])
def test_bad_localparts_for_new_users(localpart: str) -> None:
    assert not ids.is_valid_localpart_for_registration(localpart)


@pytest.mark.parametrize("room_id", ["!a:d", "!:d", "!a b/%ü:[::1]:8448", _HASH_ROOM])
def test_valid_room_ids(room_id: RoomId) -> None:
    assert ids.check_room_id(room_id) == room_id


@pytest.mark.parametrize("room_id", ["", "!", "!a", "#a:d", "!a:", "!\x00:d", _HASH_ROOM + "A", "!" + "+" * 43, "a:d"])
def test_bad_room_ids(room_id: RoomId) -> None:
    _refuses(ids.check_room_id, room_id)


def test_event_ids_and_aliases() -> None:
    for event_id in ("$a:d", "$8yif6p8EqgoSten2BLje9ntKm720NyFLWQv9tn8memc", "$with/slash+plus"):
        assert ids.check_event_id(event_id) == event_id
    for event_id in ("", "$", "a", "$a\x00", "$" + "a" * 255):
        _refuses(ids.check_event_id, event_id)
    assert ids.parse_room_alias("#日本語:d:80") == ("日本語", "d:80")
    for alias in ("#a", "a:d", "#\x00:d", "#a:b c"):
        _refuses(ids.check_room_alias, alias)


def test_server_of_keeps_the_port() -> None:
    assert ids.server_of("@a:[::1]:80") == "[::1]:80"
    _refuses(ids.server_of, _HASH_ROOM)
