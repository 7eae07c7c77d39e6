"""Two fleets talk to each other over TLS, under names with ports, with certificates of an authority that both trust."""

from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.fix_fleet import RunningFleet, run_shared_fleet
from tests.fleet.people import Person, register
from tests.fleet.raw_http import call
from tests.rigs.certificates import CertificateAuthority
from tests.rigs.waiting import wait_until

_SIZES = {"event_persister": 1, "synchrotron": 1, "federation_sender": 0, "background": 0, "media": 0}


@pytest.fixture(scope="module")
def two_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningFleet, RunningFleet]]:
    authority = CertificateAuthority(tmp_path_factory.mktemp("certificates"))
    certificate = authority.certificate("localhost")
    running = [
        run_shared_fleet(
            {
                "fleet": {**_SIZES, "federation_reader": 2},
                "federation": {"custom_ca_file": str(authority.ca_file), "trusted_key_servers": []},
                "listeners": {"federation": {"certificate_file": str(certificate)}},
            }
        )
        for _ in range(2)
    ]
    here, there = (next(each) for each in running)
    yield here, there
    for each in running:
        each.close()


def _profile(who: Person, user_id: str) -> tuple[int, object]:
    answer = who.call("GET", f"/profile/{quote(user_id, safe='')}")
    return answer.status, answer.json()


def test_users_and_aliases_of_one_server_are_found_from_the_other(
    two_servers: tuple[RunningFleet, RunningFleet],
) -> None:
    here, there = two_servers
    alice, carol = register(here, "alice"), register(there, "carol")
    carol.ask("PUT", f"/profile/{quote(carol.user_id, safe='')}/displayname", {"displayname": "Carol C."})
    assert _profile(alice, carol.user_id) == (200, {"displayname": "Carol C."})
    assert _profile(carol, alice.user_id) == (200, {"displayname": "alice"})
    assert _profile(alice, f"@nobody:{there.server_name}")[0] == 404

    room = carol.create_room(room_alias_name="bees")
    alias = quote(f"#bees:{there.server_name}", safe="")
    found = alice.ask("GET", f"/directory/room/{alias}")
    assert found == {"room_id": room, "servers": [there.server_name]}

    # The owner of the questions dies, and the other reader takes over.
    here.kill("federation_reader-1")
    wait_until(lambda: _profile(alice, f"@nobody-2:{there.server_name}")[0] == 404)

    checked = here.skep("federation", "check", there.server_name)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "version: Skep" in checked.stdout and "can be reached" in checked.stdout

    # Unsigned requests get nothing, through haproxy too.
    uri = f"/_matrix/federation/v1/query/profile?user_id={quote(carol.user_id, safe='')}"
    assert call(there.federation_url, "GET", uri).status == 401
    assert call(there.client_url, "GET", uri).status == 404


def test_check_says_which_step_fails(two_servers: tuple[RunningFleet, RunningFleet]) -> None:
    here, there = two_servers
    gone = here.skep("federation", "check", "localhost:9")
    assert (gone.returncode, gone.stderr) == (1, "")
    assert "FAILED  no connection" in gone.stdout
    address = there.server_name.replace("localhost", "127.0.0.1")
    other_name = here.skep("federation", "check", address)
    assert other_name.returncode == 1
    assert "FAILED  the certificate is not valid" in other_name.stdout
    assert here.skep("federation", "check", "no server").returncode == 1
