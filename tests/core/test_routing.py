"""Matching requests by raw paths, and the slot of a request."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.haproxy.routes import exact_map, pattern_map
from shared.core.access_tokens import format_access_token, slot_hint
from shared.core.errors import MatrixError
from shared.core.slots import SLOTS, slot_of
from shared.http.routing import RouteTable, WrongMethod, compile_path, routing_slot
from tests.fleet.haproxy_sample import ENDPOINTS, POOLS

TABLE = RouteTable(ENDPOINTS)
EXACT = dict(line.split(" ") for line in exact_map(ENDPOINTS, POOLS).splitlines())
PATTERNS = [
    (re.compile(line.split(" ")[0], re.ASCII), line.split(" ")[1])
    for line in pattern_map(ENDPOINTS, POOLS).splitlines()
]


def error_of(method: str, path: bytes) -> MatrixError:
    with pytest.raises(MatrixError) as raised:
        TABLE.match(method, path)
    return raised.value


def test_parameters_are_split_raw_and_decoded_once() -> None:
    match = TABLE.match(b"PUT", b"/_matrix/client/r0/rooms/%21a%2Fb%252F+%3Ax/send/m.%C3%BC/%00")
    assert match.endpoint.name == "send_event"
    assert match.params == {"roomId": "!a/b%2F+:x", "eventType": "m.ü", "txnId": "\0"}


@pytest.mark.parametrize("ending", [b"", b"/", b"/k%2Fey"])
def test_an_optional_last_part_may_be_empty_or_absent_with_its_slash(ending: bytes) -> None:
    match = TABLE.match("GET", b"/_matrix/client/v3/rooms/!r/state/m.x" + ending)
    assert match.params["stateKey"] == ("k/ey" if len(ending) > 1 else "")


def test_a_literal_goes_before_a_parameter_for_its_own_methods() -> None:
    path = b"/_matrix/client/v3/profile/@u:x/"
    assert TABLE.match("GET", path + b"avatar_url").endpoint.name == "get_avatar"
    assert TABLE.match("GET", path + b"displayname").endpoint.name == "get_profile_field"
    assert TABLE.match("PUT", path + b"displayname").endpoint.name == "set_displayname"
    assert TABLE.match("GET", path + b"avatar%5Furl").endpoint.name == "get_profile_field"  # literals are raw


def test_unknown_paths_and_wrong_methods_are_told_apart() -> None:
    for path in (
        b"",
        b"/",
        b"*",
        b"/_matrix/client/v3/sync/",
        b"//_matrix/client/v3/sync",
        b"/%5Fmatrix/client/v3/sync",
        b"/_matrix/client/v9/sync",
        b"/_matrix/client/v3/rooms//send/a/b",
        b"hive.example:443",
    ):
        assert (error_of("GET", path).errcode, error_of("GET", path).status) == ("M_UNRECOGNIZED", 404)
    wrong = error_of("POST", b"/_matrix/client/v3/profile/@u:x/displayname")
    assert isinstance(wrong, WrongMethod)
    assert (wrong.errcode, wrong.status, wrong.allowed) == ("M_UNRECOGNIZED", 405, ("GET", "PUT"))


@pytest.mark.parametrize("room", [b"%zz", b"!a%", b"%4", b"%ff", b"%C3", b"\xff", b"%ED%A0%80"])
def test_undecodable_path_is_a_client_error(room: bytes) -> None:
    error = error_of("GET", b"/_matrix/client/v3/rooms/" + room + b"/messages")
    assert (error.errcode, error.status) == ("M_INVALID_PARAM", 400)


@pytest.mark.parametrize("template", ["x", "/a/{b}/{b}", "/a/{b}c", "/a b", "/a/%20", "/{b?}/{b?}", "/{}"])
def test_malformed_templates_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match="path"):
        compile_path(template)


_PARTS = st.sampled_from(
    [
        "_matrix",
        "client",
        "v3",
        "r0",
        "api",
        "v1",
        "unstable",
        "federation",
        "rooms",
        "!r:x",
        "send",
        "state",
        "messages",
        "m.x",
        "profile",
        "@u:x",
        "displayname",
        "avatar_url",
        "sync",
        "join",
        "devices",
        "media",
        "download",
        "",
        "a.b",
    ]
)
_PATHS = st.one_of(
    st.lists(_PARTS, max_size=9).map(lambda parts: "/" + "/".join(parts)),
    st.tuples(
        st.sampled_from(
            ["/_matrix/client/v3/rooms/!r:x", "/_matrix/client/api/v1/rooms/x", "/_matrix/client/r0/profile/u"]
        ),
        st.lists(_PARTS, max_size=4),
    ).map(lambda drawn: "/".join((drawn[0], *drawn[1]))),
)


@given(st.sampled_from(["GET", "PUT", "POST", "DELETE"]), _PATHS)
def test_haproxy_maps_find_the_same_endpoint_as_the_table(method: str, path: str) -> None:
    request = method + path
    route = EXACT.get(request) or next((value for pattern, value in PATTERNS if pattern.match(request)), None)
    try:
        endpoint, _ = TABLE.locate(method, path.encode())
    except MatrixError:
        assert route is None
    else:
        assert route is not None
        assert route.split("/")[0] == endpoint.pool
        assert route.endswith("/replay") == endpoint.idempotent


def slot_asked(query: bytes, authorization: bytes | None = None) -> int | None:
    endpoint, params = TABLE.locate("GET", b"/_matrix/client/v3/sync")
    return routing_slot(endpoint, params, query, authorization)


def test_slot_comes_from_user_id_then_hint_then_token() -> None:
    assert slot_asked(b"user_id=%40b%3Ax&access_token=skp_001_a", b"Bearer skp_002_a") == slot_of("@b:x")
    assert slot_asked(b"access_token=skp_001_a", b"bearer  skp_3ff_a") == 1023
    assert slot_asked(b"access_token=skp_001_a", b"Basic skp_3ff_a") == 1
    assert slot_asked(b"access_token=opaque") == slot_of("opaque")
    assert slot_asked(b"", b"Bearer skp_400_a") == slot_of("skp_400_a")  # out of range, so it is hashed like any token
    assert slot_asked(b"user_id=%zz", b"Bearer skp_002_a") == 2
    assert slot_asked(b"user_id=&access_token", None) is None


def test_an_alias_and_a_broken_escape_have_no_slot() -> None:
    for written, slot in ((b"%21r:x", slot_of("!r:x")), (b"%23r:x", None), (b"%2", None), (b"%ff", slot_of(b"\xff"))):
        endpoint, params = TABLE.locate("POST", b"/_matrix/client/v3/join/" + written)
        assert routing_slot(endpoint, params, b"", None) == slot


@given(st.integers(0, SLOTS - 1), st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True))
def test_issued_token_returns_its_slot(slot: int, secret: str) -> None:
    assert slot_hint(format_access_token(slot, secret)) == slot


def test_token_with_bad_slot_or_secret_is_refused() -> None:
    for slot, secret in ((-1, "a"), (SLOTS, "a"), (1, ""), (1, "a b"), (1, "a%")):
        with pytest.raises(ValueError, match=r"slot|random"):
            format_access_token(slot, secret)
    for token in ("skp_400_a", "skp_0FF_a", "skp_0ff", "xskp_0ff_a", "syt_a", ""):
        assert slot_hint(token) is None
