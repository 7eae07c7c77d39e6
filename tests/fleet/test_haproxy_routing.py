"""haproxy and Python choose the same slot and process for every endpoint, with hostile ids in any encoding."""

import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.endpoint_table import all_endpoints, all_pools
from shared.core.access_tokens import format_access_token
from shared.core.errors import MatrixError
from shared.core.slots import slot_of
from shared.http.endpoint import Auth, Endpoint, Pool, RoutingKey, paths_of
from shared.http.routing import RouteTable, compile_path, routing_slot
from tests.fleet.haproxy_rig import Rig, haproxy_rig
from tests.fleet.haproxy_sample import ENDPOINTS, POOLS

SAMPLE = RouteTable(ENDPOINTS)
WORKERS = {"event_persister": 3, "client_api": 2, "synchrotron": 3, "federation_reader": 2, "media": 2}
#: Bytes that haproxy accepts unescaped in a path. "%" is drawn separately, as a valid or broken escape.
PLAIN = b"abcXYZ019-._~!$&'()*+,;=:@[]|{}\"<>`^\\"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with running_fleet(ENDPOINTS, POOLS) as rig:
        yield rig


@contextmanager
def running_fleet(endpoints: tuple[Endpoint, ...], pools: tuple[Pool, ...]) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="skep") as directory, haproxy_rig(Path(directory), endpoints, pools) as rig:
        for worker_type, count in WORKERS.items():
            for number in range(1, count + 1):
                rig.add(worker_type, f"{worker_type}{number}")
        rig.deal("rooms", [f"event_persister{n}" for n in (1, 2, 3)])
        rig.deal("users", [f"client_api{n}" for n in (1, 2)])
        assert rig.align() == []
        yield rig


HOSTILE_IDS = st.one_of(
    st.sampled_from(
        [
            "!abc:example.org",
            "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM",
            "!a:[2001:db8::1]:8448",
            "!a:1.2.3.4:8448",
            "!a/b:x",
            "!a%2Fb:x",
            "! a b",
            "!\0:x",
            "!a+b:x",
            "!ünï:ex.org",
            "!日本語",
            "#alias:x",
            "#",
            "@u:x",
            "@u/v=+:x",
            "..",
            ".",
            "%",
            "m.room.message",
            "displayname",
            "avatar_url",
            "send",
            "?",
            "#?&;",
            "!" + "x" * 254,
            "\U0001f41d",
        ]
    ).map(str.encode),
    st.binary(min_size=1, max_size=40),
    st.text(min_size=1, max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass")),
)


def encode(raw: bytes, how: random.Random) -> bytes:
    """Percent-encode the bytes that need it and random others, with hex digits in either case."""
    always = how.random() < 0.3
    out = bytearray()
    for byte in raw:
        if byte in PLAIN and not always and how.random() < 0.7:
            out.append(byte)
        else:
            out += (b"%%%02X" if how.random() < 0.5 else b"%%%02x") % byte
    return bytes(out)


#: Method, path, query, Authorization header, and True for the federation port.
Drawn: TypeAlias = tuple[str, bytes, bytes, bytes | None, bool]


@st.composite
def requests(draw: st.DrawFn, endpoints: tuple[Endpoint, ...]) -> Drawn:
    endpoint: Endpoint = draw(st.sampled_from([e for e in endpoints if e.auth is not Auth.INTERNAL]))
    how = draw(st.randoms(use_true_random=False))
    shape = draw(st.sampled_from([s for path in paths_of(endpoint) for s in compile_path(path)]))
    parts = [encode(draw(HOSTILE_IDS), how) if part is None else part for part in shape.segments]
    mangle = how.random()
    if mangle < 0.08:
        parts[how.randrange(len(parts))] += how.choice([b"%", b"%zz", b"%4", b"%C3", b"%ff", b"/", b"//x"])
    method = how.choice(["GET", "PUT", "DELETE"]) if mangle > 0.95 else endpoint.method
    user = encode(draw(HOSTILE_IDS), how).replace(b"&", b"%26")
    token = how.choice([b"skp_0ff_abc", b"skp_3ff_x", b"skp_400_x", b"skp_0FF_x", b"syt_abc", b"x", b""])
    query = [
        how.choice([b"", b"since=s1", b"xuser_id=@a:b", b"user_id", b"a?b"]),
        how.choice([b"", b"", b"user_id=" + user]),
        how.choice([b"", b"", b"access_token=" + token, b"access_token=a+b%zz"]),
    ]
    header = how.choice([None, None, b"Bearer " + token, b"bEARER   " + token + b" y", b"Basic zz", b"Bearer"])
    if endpoint.auth is Auth.SERVER:
        header = b'X-Matrix origin="a.example",key="ed25519:1",sig="x"'
    path = b"/" + b"/".join(parts)
    return (
        method,
        path,
        how.choice([b"&", b";"]).join(q for q in query if q),
        header,
        path.startswith((b"/_matrix/federation/", b"/_matrix/key/")),
    )


THOROUGH = settings(max_examples=900, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@THOROUGH
@given(requests(ENDPOINTS))
def test_haproxy_and_python_route_requests_alike(rig: Rig, drawn: Drawn) -> None:
    assert_agreement(rig, SAMPLE, *drawn)


def test_haproxy_and_python_route_every_declared_endpoint_alike() -> None:
    """Uses the endpoints that Skep declares, each at least once."""
    endpoints, pools = all_endpoints(), all_pools()
    table = RouteTable(endpoints)
    with running_fleet(endpoints, pools) as rig:

        @THOROUGH
        @given(requests(endpoints))
        def check(drawn: Drawn) -> None:
            assert_agreement(rig, table, *drawn)

        check()
        how = random.Random(1)
        for endpoint in endpoints:
            if endpoint.auth is Auth.INTERNAL:
                continue
            for shape in (shape for path in paths_of(endpoint) for shape in compile_path(path)):
                path = b"/" + b"/".join(encode(b"!b:x/y", how) if part is None else part for part in shape.segments)
                federation = path.startswith((b"/_matrix/federation/", b"/_matrix/key/"))
                assert_agreement(rig, table, endpoint.method, path, b"user_id=@a:b", None, federation)


def assert_agreement(
    rig: Rig, table: RouteTable, method: str, path: bytes, query: bytes, authorization: bytes | None, federation: bool
) -> None:
    target = path + (b"?" + query if query else b"")
    client = rig.federation if federation else rig.client
    answer = client.ask(method, target, {"authorization": authorization} if authorization is not None else {})
    assert answer.status == 200, answer
    assert answer.body["target"].encode("latin-1") == target  # the worker gets the URL unchanged
    try:
        endpoint, params = table.locate(method, path)
    except MatrixError:
        assert answer.body["type"] == ("federation_reader" if federation else "client_api")
        assert answer.sent("x-skep-slot") == []
        return
    pool = next(pool for pool in rig.pools if pool.name == endpoint.pool)
    slot = routing_slot(endpoint, params, query, authorization)
    assert answer.body["type"] == pool.worker
    assert answer.sent("x-skep-slot") == ([] if slot is None else [str(slot)])
    if pool.slot_kind and slot is not None:
        assert answer.body["worker"] == rig.owners[pool.slot_kind][slot]


def test_decoded_path_parameter_has_the_slot_of_the_raw_path(rig: Rig) -> None:
    for room in ("!ünï:ex.org", "!a/b:x", "!a%2Fb:x", "!a b+c:x"):
        path = b"/_matrix/client/v3/rooms/" + encode(room.encode(), random.Random(1)) + b"/send/m.x/t"
        match = SAMPLE.match("PUT", path)
        assert match.params["roomId"] == room
        assert routing_slot(match.endpoint, cast("Mapping[str, str]", match.params), b"", None) == slot_of(room)
        assert rig.client.ask("PUT", path).body["worker"] == rig.owners["rooms"][slot_of(room)]


def test_all_devices_of_a_user_use_one_synchrotron(rig: Rig) -> None:
    used = set()
    for slot in range(0, 1024, 37):
        by_header = rig.client.ask(
            "GET", b"/_matrix/client/v3/sync", {"authorization": b"Bearer " + format_access_token(slot, "a").encode()}
        )
        by_query = rig.client.ask(
            "GET", b"/_matrix/client/r0/sync?timeout=0&access_token=" + format_access_token(slot, "b").encode()
        )
        assert by_header.body["worker"] == by_query.body["worker"]
        assert by_header.sent("x-skep-slot") == by_query.sent("x-skep-slot") == [str(slot)]
        used.add(by_header.body["worker"])
    assert used == {"synchrotron1", "synchrotron2", "synchrotron3"}


def test_user_id_parameter_routes_before_the_token(rig: Rig) -> None:
    answer = rig.client.ask(
        "GET", b"/_matrix/client/v3/sync?user_id=%40bee%3Ax", {"authorization": b"Bearer skp_001_x"}
    )
    assert answer.sent("x-skep-slot") == [str(slot_of("@bee:x"))]


def test_transactions_of_one_origin_go_to_one_process(rig: Rig) -> None:
    used = set()
    for origin in [f"s{n}.example" for n in range(12)] + ["[2001:db8::1]:8448", "1.2.3.4:80", "[::1]"]:
        forms = [
            f'X-Matrix origin="{origin}",destination="x",key="ed25519:1",sig="{{}}"',
            f"X-Matrix origin={origin},key=ed25519:1,sig={{}}",
            f'X-Matrix key="ed25519:1", sig="{{}}", origin="{origin}", destination="hive.example"',
            f'x-matrix sig="{{}}",ORIGIN="{origin}"',
        ]
        workers = {
            rig.federation.ask(
                "PUT", b"/_matrix/federation/v1/send/%d" % n, {"authorization": form.format(n).encode()}
            ).body["worker"]
            for n, form in enumerate(forms * 2)
        }
        assert len(workers) == 1, origin
        used |= workers
    assert used == {"federation_reader1", "federation_reader2"}


def test_media_id_goes_to_one_process(rig: Rig) -> None:
    used = set()
    for number in range(12):
        path = b"/_matrix/client/v1/media/download/x.example/m%d" % number
        workers = {rig.client.ask("GET", path + ending).body["worker"] for ending in (b"", b"/", b"/name.png")}
        assert len(workers) == 1
        used |= workers
    assert used == {"media1", "media2"}


@pytest.mark.parametrize("key", [key for key in RoutingKey if key is not RoutingKey.FETCH])  # inside the fleet only
def test_sample_covers_every_routing_key(key: RoutingKey) -> None:
    assert any(endpoint.routing_key is key for endpoint in ENDPOINTS)
