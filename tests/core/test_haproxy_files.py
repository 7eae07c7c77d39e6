"""Files generated from the endpoints: the golden files, the order of the expressions, refused mistakes."""

import json
import re

import pytest

from deploy.command.inspection.endpoints import endpoints_text
from deploy.haproxy.configuration import HaproxyInputs, quoted
from deploy.haproxy.error_pages import error_pages
from deploy.haproxy.generate import haproxy_files
from deploy.haproxy.golden import DIRECTORY, golden_files
from deploy.haproxy.routes import exact_map, pattern_map
from shared.http.endpoint import Auth, Endpoint, Pool, RoutingKey
from tests.fleet.haproxy_sample import ENDPOINTS, POOLS


def test_every_status_that_haproxy_may_answer_has_a_matrix_error() -> None:
    """The statuses of the directive `errorfile` in HAProxy 2.8, except 200."""
    statuses = {400, 401, 403, 404, 405, 407, 408, 410, 413, 421, 422, 425, 429, 500, 501, 502, 503, 504}
    assert error_pages().keys() == statuses
    for status, page in error_pages().items():
        head, _, body = page.partition("\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ")
        assert "Access-Control-Allow-Origin: *" in head
        assert {"errcode", "error"} <= json.loads(body).keys()


def test_the_golden_files_are_current() -> None:
    for name, text in golden_files().items():
        assert (DIRECTORY / name).read_text() == text, "python -m deploy.haproxy.golden writes them; look at the diff"


def test_the_narrower_expression_comes_first_and_inner_endpoints_nowhere() -> None:
    lines = pattern_map(ENDPOINTS, POOLS).splitlines()
    first = next(line for line in lines if re.match(line.split(" ")[0], "GET/_matrix/client/v3/profile/u/avatar_url"))
    assert first.endswith(" client/users/-/0/once")
    assert not any("_skep" in line for line in [*lines, *exact_map(ENDPOINTS, POOLS).splitlines()])
    assert all(len(line.split(" ")) == 2 for line in lines)
    assert "/send/" in lines[0]  # hot


def test_every_slot_has_an_entry_from_the_start() -> None:
    files = haproxy_files(HaproxyInputs(), ENDPOINTS, POOLS)
    assert files["rooms.map"].splitlines()[1023] == "1023 none"
    assert files["haproxy.cfg"].count("\nbackend users_") == 64


def test_error_pages_are_whole_answers() -> None:
    for status, page in error_pages().items():
        head, _, body = page.partition("\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ")
        assert f"Content-Length: {len(body)}" in head
        assert json.loads(body)["errcode"].startswith("M_")


def test_endpoints_that_do_not_fit_together_are_refused_with_every_reason() -> None:
    odd = (
        Endpoint(
            name="one",
            method="GET",
            path="/_matrix/client/{version}/x/{roomId}/{b}",
            pool="room_write",
            routing_key=RoutingKey.ROOM,
        ),
        Endpoint(
            name="two",
            method="GET",
            path="/_matrix/client/{version}/x/{b}",
            pool="nowhere",
            routing_key=RoutingKey.ROOM,
        ),
        Endpoint(name="two", method="HEAD", path="/_matrix/x{", pool="client", routing_key=RoutingKey.ORIGIN),
        Endpoint(name="three", method="POST", path="/_matrix/y", pool="client", auth=Auth.INTERNAL),
        Endpoint(
            name="four", method="POST", path="/_matrix/y/{userId?}", pool="room_write", routing_key=RoutingKey.USER
        ),
    )
    pools = (*POOLS, Pool(name="sync", worker="media", slot_kind="rooms"))
    with pytest.raises(ValueError) as raised:
        haproxy_files(HaproxyInputs(), odd, pools)
    for part in (
        "pool sync: declared 2 times",
        "slots 'rooms' are not owned by media",
        "endpoint two: declared 2 times",
        "pool 'nowhere' is not declared",
        "{roomId} is missing",
        "method HEAD",
        "auth must be SERVER",
        "neither a plain literal",
        "/_skep/",
        "has no slot of pool room_write's kind",
        "{userId} is missing, or optional",
    ):
        assert part in str(raised.value)
    with pytest.raises(ValueError, match="endpoints five, six overlap"):
        five = Endpoint(name="five", method="GET", path="/_matrix/client/v3/x/a/{c}", pool="client")
        six = Endpoint(name="six", method="GET", path="/_matrix/client/v3/x/{c}/d", pool="client")
        haproxy_files(HaproxyInputs(), (odd[0], five, six), POOLS)


def test_words_with_spaces_and_quotes_are_quoted() -> None:
    assert quoted('/a b/"$HOME"\\x') == '"/a b/\\"\\$HOME\\"\\\\x"'
    with pytest.raises(ValueError, match="control"):
        quoted("a\nb")


def test_the_table_of_endpoints_for_people_and_programs() -> None:
    text = endpoints_text(ENDPOINTS, as_json=False)
    assert re.search(r"PUT +/_matrix/client/v3/rooms/\{roomId\}/send/\S+ +room_write +roomId", text)
    rows = json.loads(endpoints_text(ENDPOINTS, as_json=True))
    assert {"method": "GET", "path": "/_matrix/client/r0/sync", "pool": "sync", "routing_key": "token"}.items() <= next(
        row for row in rows if row["path"] == "/_matrix/client/r0/sync"
    ).items()
