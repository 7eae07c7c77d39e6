"""Protection of internals: pages and calls, reserved headers, ports, and private files."""

import os
import socket
import stat
from pathlib import Path
from urllib.parse import quote

import pytest

from shared.core.slots import slot_of
from tests.fix_fleet import RunningFleet
from tests.fleet.people import CLIENT, Person, register
from tests.fleet.raw_http import Answer, call, exchange, request_bytes

_INNER = ("/metrics", "/health/live", "/health/ready", "/_skep/rate_limit/take", "/_skep/rooms/!a:b/member_profile")


def _disguises(path: str) -> list[str]:
    """Return forms of a path that a proxy and the server behind it might interpret differently."""
    first, rest = path[1], path[2:]
    escaped = f"%{ord(first):02x}"
    return [
        path,
        path + "/",
        path + "?x=/_matrix/client/versions",
        path + "#/_matrix/client/versions",
        path + ";/_matrix/client/versions",
        path + "%00",
        path + "%2f",
        path.upper(),
        "/" + path,
        "//" + path[1:] + "/",
        "/./" + path[1:],
        "/x/.." + path,
        "/_matrix/client/.." + "/.." + path,
        "/_matrix/client/%2e%2e/%2E%2E" + path,
        "/_matrix/federation/v1/../../.." + path,
        "/_matrix/key/%2e%2e/.." + path,
        "/.well-known/matrix/../.." + path,
        "/" + escaped + rest,
        "/" + escaped.upper() + rest,
        "/%25" + escaped[1:] + rest,
        "/%2f" + path[1:],
        "%2f" + path[1:],
        "\\" + path[1:],
        "/\\" + path,
        path.replace("/", "%2f"),
        "/;" + path,
        f"http://localhost{path}",
        f"http://127.0.0.1/{path}",
        f"//localhost{path}",
    ]


def _leaks(answer: Answer) -> bool:
    """Return True if the answer comes from an internal page or call and is not a refusal."""
    return answer.status not in (400, 404, 405) or b"skep_" in answer.body or b'"live"' in answer.body


def test_internal_pages_cannot_be_reached_through_haproxy(watched_fleet: RunningFleet) -> None:
    internal_secret = (watched_fleet.directory / "secrets" / "internal_secret").read_text().strip()
    for url in (watched_fleet.client_url, watched_fleet.federation_url):
        for path in _INNER:
            for target in _disguises(path):
                # Even with the secret, a client gets nothing.
                headers = {"Authorization": f"Bearer {internal_secret}"}
                for method in ("GET", "PUT" if "member_profile" in path else "POST"):
                    request = request_bytes(method, target, headers=headers, body=b"" if method == "GET" else b"{}")
                    answer = exchange(url, request, method=method)
                    assert not _leaks(answer), (url, method, target, answer)


def test_each_listener_serves_its_own_api_only(watched_fleet: RunningFleet) -> None:
    assert call(watched_fleet.client_url, "GET", "/_matrix/client/versions").status == 200
    assert call(watched_fleet.federation_url, "GET", "/_matrix/key/v2/server").status == 200
    for url, paths in (
        (watched_fleet.federation_url, ("/_matrix/client/versions", f"{CLIENT}/login", "/_synapse/admin/v1/register")),
        (watched_fleet.client_url, ("/_matrix/key/v2/server", "/_matrix/federation/v1/version")),
    ):
        for path in paths:
            answer = call(url, "GET", path)
            assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED"), (url, path)


def test_internal_headers_from_clients_have_no_effect(watched_fleet: RunningFleet) -> None:
    """`x-skep-forwarded` would bypass the rate limit, and fail if another worker owns the slot."""
    person = register(watched_fleet, "headers")
    lie = {
        "x-skep-forwarded": "1",
        "X-Skep-Slot": "0",
        "X-SKEP-anything": "1",
        "x-forwarded-for": "192.0.2.77",
        "x-request-id": "made-outside-7c1",
        "x-forwarded-proto": "gopher",
        "authorization": f"Bearer {person.token}",
    }
    for number in range(12):
        answer = call(
            watched_fleet.client_url, "POST", f"{CLIENT}/createRoom", body={"preset": "public_chat"}, headers=lie
        )
        assert answer.status == 200, answer
        room = quote(answer.json()["room_id"], safe="")
        path = f"{CLIENT}/rooms/{room}/send/m.room.message/{number}"
        answer = call(watched_fleet.client_url, "PUT", path, body={"msgtype": "m.text", "body": "hum"}, headers=lie)
        assert answer.status == 200, answer
    logs = "".join(file.read_text(errors="replace") for file in (watched_fleet.directory / "logs").glob("*.log"))
    assert "made-outside-7c1" not in logs
    assert "192.0.2.77" not in logs


def _workers(fleet: RunningFleet, worker_type: str) -> list[str]:
    return [f"http://{each['address']}" for each in fleet.processes().values() if each["type"] == worker_type]


def test_internal_calls_refuse_a_wrong_secret(watched_fleet: RunningFleet) -> None:
    """The worker itself answers 404, as if the call did not exist."""
    secret = (watched_fleet.directory / "secrets" / "internal_secret").read_text().strip()
    person = register(watched_fleet, "inner")
    wrong: list[dict[str, str]] = [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": secret},
        {"authorization": f"Basic {secret}"},
        {"authorization": f"Bearer {secret[:-1]}"},
        {"authorization": f"Bearer {secret}x"},
        {"authorization": f"Bearer {person.token}"},
        {"authorization": "Bearer ÿ"},
        {"x-skep-forwarded": "1"},
    ]
    take = {"limit": "message", "key": person.user_id, "wanted": 1}
    for url in _workers(watched_fleet, "client_api"):
        for headers in wrong:
            answer = call(url, "POST", "/_skep/rate_limit/take", body=take, headers=headers)
            assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED"), (headers, answer)
        right = {"authorization": f"Bearer {secret}"}
        assert call(url, "POST", "/_skep/rate_limit/take", body=take, headers=right).status == 200
        for body in (
            b"",
            b"{",
            {},
            {**take, "limit": "none of ours"},
            {**take, "wanted": "x"},
            {**take, "limit": "login"},
        ):
            answer = call(url, "POST", "/_skep/rate_limit/take", body=body, headers=right)
            assert answer.status in (200, 400), (body, answer)


def test_worker_ports_require_access_tokens(watched_fleet: RunningFleet) -> None:
    """A worker's port is for haproxy, other workers and Prometheus only, but it checks tokens too."""
    for each in watched_fleet.processes().values():
        if each["type"] in ("event_persister", "synchrotron", "client_api"):
            answer = call(f"http://{each['address']}", "GET", f"{CLIENT}/sync")
            assert answer.status in (401, 404), (each["name"], answer)


def _listening() -> list[tuple[str, int, int]]:
    """Return (address, port, inode) of every listening TCP socket of this machine, from /proc/net."""
    found: list[tuple[str, int, int]] = []
    for family, name in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] != "0A":
                continue
            raw_address, raw_port = words[1].split(":")
            raw = bytes.fromhex(raw_address)
            # The kernel prints words of 4 bytes in the machine's order, which is little-endian here.
            address = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
            found.append((socket.inet_ntop(family, address), int(raw_port, 16), int(words[9])))
    return found


def _sockets_of(pid: int) -> set[int]:
    inodes: set[int] = set()
    for link in Path("/proc", str(pid), "fd").iterdir():
        try:
            target = os.readlink(link)
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(int(target[8:-1]))
    return inodes


def test_every_socket_listens_on_loopback(watched_fleet: RunningFleet) -> None:
    listening = _listening()
    seen: set[str] = set()
    for each in watched_fleet.processes().values():
        try:
            mine = _sockets_of(each["pid"])
        except PermissionError:
            continue  # PostgreSQL runs as its own user when we are root; it has a UNIX socket only
        for address, port, inode in listening:
            if inode in mine:
                assert address in ("127.0.0.1", "::1"), (each["name"], address, port)
                seen.add(each["type"])
    assert {"haproxy", "redis", "client_api", "event_persister", "synchrotron"} <= seen


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_with_secrets_are_private(watched_fleet: RunningFleet) -> None:
    directory = watched_fleet.directory
    secrets = {path.name: path.read_text().strip() for path in (directory / "secrets").iterdir()}
    assert set(secrets) >= {"signing_key", "internal_secret", "registration_shared_secret"}
    assert _mode(directory / "secrets") == 0o700
    words = {word for text in secrets.values() for word in text.split() if len(word) > 20}
    told: list[tuple[Path, str]] = []
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if name != "postgres"]  # a private directory
        for name in names:
            path = Path(folder, name)
            if path.is_socket() or not os.access(path, os.R_OK):
                continue
            text = path.read_text(errors="replace")
            if (any(word in text for word in words) or "PRIVATE KEY" in text) and _mode(path) != 0o600:
                told.append((path, oct(_mode(path))))
    assert told == []
    assert any("PRIVATE KEY" in path.read_text() for path in (directory / "tls").iterdir())


@pytest.fixture
def victim(watched_fleet: RunningFleet) -> Person:
    return register(watched_fleet, "victim")


def test_user_cannot_act_for_another_user(watched_fleet: RunningFleet, victim: Person) -> None:
    mallory = register(watched_fleet, "mallory")
    target, room = quote(victim.user_id, safe=""), victim.create_room(preset="private_chat")
    event = victim.send(room, "1", {"msgtype": "m.text", "body": "private"}).json()["event_id"]
    place = quote(room, safe="")
    calls = [
        ("PUT", f"/profile/{target}/displayname", {"displayname": "owned"}),
        ("DELETE", f"/profile/{target}/displayname", b""),
        ("PUT", f"/user/{target}/account_data/x", {}),
        ("GET", f"/user/{target}/account_data/x", b""),
        ("PUT", f"/user/{target}/rooms/{place}/account_data/x", {}),
        ("GET", f"/user/{target}/rooms/{place}/tags", b""),
        ("PUT", f"/user/{target}/rooms/{place}/tags/u.x", {}),
        ("POST", f"/user/{target}/filter", {}),
        ("PUT", f"/rooms/{place}/typing/{target}", {"typing": True}),
        ("PUT", f"/rooms/{place}/send/m.room.message/1", {"msgtype": "m.text", "body": "x"}),
        ("PUT", f"/rooms/{place}/state/m.room.topic/", {"topic": "x"}),
        ("PUT", f"/rooms/{place}/redact/{quote(event)}/1", {}),
        ("POST", f"/rooms/{place}/join", {}),
        ("POST", f"/rooms/{place}/receipt/m.read/{quote(event)}", {}),
        ("GET", f"/rooms/{place}/messages?dir=b", b""),
        ("GET", f"/rooms/{place}/state", b""),
        ("GET", f"/rooms/{place}/members", b""),
        ("GET", f"/rooms/{place}/joined_members", b""),
        ("GET", f"/rooms/{place}/aliases", b""),
        ("GET", f"/sync?user_id={target}&timeout=0", b""),
    ]
    for method, path, body in calls:
        answer = mallory.call(method, path, body)
        if path.startswith("/sync"):
            assert room not in answer.body.decode(), answer
        else:
            assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN"), (method, path, answer)
    for path in (f"/rooms/{place}/event/{quote(event)}", f"/rooms/{place}/context/{quote(event)}"):
        answer = mallory.call("GET", path)
        assert answer.status in (403, 404) and b"private" not in answer.body, (path, answer)
    # A token's slot is only a hint: a token with a wrong slot is as unknown as any other.
    forged = f"skp_{slot_of(victim.user_id):03x}{mallory.token[7:]}"
    answer = call(watched_fleet.client_url, "GET", f"{CLIENT}/account/whoami", token=forged)
    assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN") or slot_of(victim.user_id) == slot_of(
        mallory.user_id
    )
