"""Finding a server: the forms of names, the order of records, the lifetimes of answers."""

from collections import Counter
from itertools import chain, repeat
from random import Random

import pytest

from shared.core.federation.server_discovery import (
    DEFAULT_PORT,
    Endpoint,
    SrvRecord,
    default_endpoint,
    direct_endpoint,
    no_well_known_lifetime_s,
    parse_well_known,
    split_server_name,
    srv_endpoints,
    well_known_lifetime_s,
)
from shared.core.identifiers import ServerName


@pytest.mark.parametrize(
    ("name", "host", "port", "certificate"),
    [
        ("1.2.3.4", "1.2.3.4", DEFAULT_PORT, "1.2.3.4"),
        ("1.2.3.4:80", "1.2.3.4", 80, "1.2.3.4"),
        ("[2001:DB8::1]", "2001:db8::1", DEFAULT_PORT, "2001:db8::1"),
        ("[::ffff:1.2.3.4]:443", "::ffff:102:304", 443, "::ffff:102:304"),
        ("Example.org:443", "Example.org", 443, "Example.org"),
    ],
)
def test_literals_and_names_with_a_port_need_no_question(name: str, host: str, port: int, certificate: str) -> None:
    found = direct_endpoint(ServerName(name))
    assert found == Endpoint(host=host, port=port, host_header=name, certificate_name=certificate)


def test_bare_name_must_be_looked_up_and_has_a_default() -> None:
    name = ServerName("example.org")
    assert direct_endpoint(name) is None
    assert default_endpoint(name) == Endpoint(
        host="example.org", port=8448, host_header="example.org", certificate_name="example.org"
    )


@pytest.mark.parametrize("name", ["example.org:0", "example.org:65536", "1.2.3.4.5", "999.1.1.1", "[:::]", "1.2.3"])
def test_names_that_are_no_address_are_refused(name: str) -> None:
    with pytest.raises(ValueError):
        split_server_name(ServerName(name))


def test_records_are_tried_by_priority() -> None:
    records = [
        SrvRecord(priority=20, weight=0, target="last.example", port=3),
        SrvRecord(priority=10, weight=5, target="first.example", port=1),
        SrvRecord(priority=15, weight=9, target="second.example", port=2),
        SrvRecord(priority=1, weight=9, target="", port=2),
    ]
    found = srv_endpoints(ServerName("a.org"), records, Random(1).random)
    assert [(each.host, each.port) for each in found] == [
        ("first.example", 1),
        ("second.example", 2),
        ("last.example", 3),
    ]
    assert {(each.host_header, each.certificate_name) for each in found} == {("a.org", "a.org")}


def test_records_of_one_priority_share_the_load_by_weight() -> None:
    records = [SrvRecord(priority=1, weight=w, target=f"w{w}.example", port=1) for w in (0, 1, 3)]
    random = Random(7).random
    first = Counter(srv_endpoints(ServerName("a.org"), records, random)[0].host for _ in range(4000))
    assert 2.5 < first["w3.example"] / first["w1.example"] < 3.5
    assert first["w0.example"] < 20
    assert len(srv_endpoints(ServerName("a.org"), records, chain([1.0], repeat(0.0)).__next__)) == 3


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"<html>", "not JSON"),
        (b"[]", "m.server"),
        (b"{}", "m.server"),
        (b'{"m.server": 5}', "m.server"),
        (b'{"m.server": "a b"}', "m.server"),
        (b'{"m.server": "https://a.org"}', "m.server"),
        (b'{"m.server": "a.org:99999"}', "port"),
    ],
)
def test_wrong_well_known_is_refused_with_a_reason(body: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_well_known(body)


def test_well_known_names_a_server_that_may_have_a_port() -> None:
    assert parse_well_known(b'{"m.server": "matrix.example.org:443", "future": []}') == "matrix.example.org:443"


@pytest.mark.parametrize(
    ("control", "age_s", "lifetime_s"),
    [
        ("", 0, 86_400),
        ("public, max-age=3600", 0, 3_600),
        ("Max-Age = 3600", 600, 3_000),
        ("max-age=0", 0, 60),
        ("no-store", 0, 60),
        ("max-age=9999999999", 0, 172_800),
        ("max-age=nonsense", 0, 86_400),
    ],
)
def test_well_known_is_kept_as_long_as_it_says_within_bounds(control: str, age_s: float, lifetime_s: float) -> None:
    assert well_known_lifetime_s({"cache-control": control}, age_s) == lifetime_s


def test_missing_well_known_is_asked_for_again_within_the_hour() -> None:
    found = [no_well_known_lifetime_s(failures) for failures in (1, 2, 3, 7, 1000)]
    assert found == [60, 120, 240, 3600, 3600]
