"""`skep user` on a running fleet."""

import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

import pytest

from shared.config.sections import Quotas
from tests.fix_fleet import RunningFleet


def call(
    fleet: RunningFleet, method: str, path: str, body: Any = None, token: str | None = None
) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{fleet.client_url}/_matrix/client/v3{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def log_in(fleet: RunningFleet, user: str, password: str) -> tuple[int, dict[str, Any]]:
    identifier = {"type": "m.id.user", "user": user}
    return call(fleet, "POST", "/login", {"type": "m.login.password", "identifier": identifier, "password": password})


def listed(fleet: RunningFleet, *words: str) -> dict[str, dict[str, Any]]:
    done = fleet.skep("user", "list", "--json", *words)
    assert done.returncode == 0, done.stderr
    return {account["user_id"]: account for account in map(json.loads, done.stdout.splitlines())}


@pytest.fixture
def eve(fleet: RunningFleet) -> str:
    """The user id of an account that was registered with its full user id."""
    user_id = f"@eve{time.monotonic_ns()}:{fleet.server_name}"
    done = fleet.skep("user", "register", user_id, "--password", "first password")
    assert done.stdout == f"registered {user_id}\n", done.stderr
    return user_id


def test_register_takes_a_user_id_and_leaves_no_session(fleet: RunningFleet, eve: str) -> None:
    status, session = log_in(fleet, eve, "first password")
    assert status == 200
    status, devices = call(fleet, "GET", "/devices", token=session["access_token"])
    assert [device["device_id"] for device in devices["devices"]] == [session["device_id"]]
    again = fleet.skep("user", "register", eve, "--password", "first password")
    assert again.returncode == 1 and "This user name is taken" in again.stderr


def test_list_shows_accounts_and_filters_them(fleet: RunningFleet, eve: str) -> None:
    account = listed(fleet)[eve]
    assert (account["kind"], account["is_admin"], account["deactivated"]) == ("user", False, False)
    assert eve in listed(fleet, "--contains", eve[1:8]) and eve not in listed(fleet, "--contains", "nobody has this")
    assert eve not in listed(fleet, "--admins") and eve not in listed(fleet, "--deactivated")
    assert eve in fleet.skep("user", "list").stdout


def test_usage_shows_what_a_user_stores(fleet: RunningFleet, eve: str) -> None:
    token = log_in(fleet, eve, "first password")[1]["access_token"]
    path = f"/user/{quote(eve, safe='')}/account_data/m.test"
    assert call(fleet, "PUT", path, {"text": "x" * 5000}, token)[0] == 200
    done = fleet.skep("user", "usage", eve, "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert 5000 < shown["account_data_bytes"]["used"] < 6000 and shown["devices"]["used"] == 1
    assert shown["account_data_bytes"]["quota"] == Quotas().account_data_bytes
    lines = fleet.skep("user", "usage", eve).stdout.splitlines()
    assert len(lines) == len(shown) - 1 and lines[0].startswith("account_data_bytes")
    assert "There is no account" in fleet.skep("user", "usage", "nobody.has.this").stderr


def test_reset_password_ends_all_sessions(fleet: RunningFleet, eve: str) -> None:
    token = log_in(fleet, eve, "first password")[1]["access_token"]
    done = fleet.skep("user", "reset-password", eve.partition(":")[0][1:], "--password", "second password")
    assert done.returncode == 0 and "logged out everywhere" in done.stdout, done.stderr
    assert call(fleet, "GET", "/account/whoami", token=token)[1]["errcode"] == "M_UNKNOWN_TOKEN"
    assert log_in(fleet, eve, "first password")[0] == 403
    token = log_in(fleet, eve, "second password")[1]["access_token"]

    kept = fleet.skep("user", "reset-password", eve, "--password", "third password", "--keep-sessions")
    assert kept.returncode == 0, kept.stderr
    assert call(fleet, "GET", "/account/whoami", token=token)[1]["user_id"] == eve
    weak = fleet.skep("user", "reset-password", eve, "--password", "short")
    assert weak.returncode == 1 and "8 characters" in weak.stderr


def test_make_admin_and_revoke(fleet: RunningFleet, eve: str) -> None:
    assert fleet.skep("user", "make-admin", eve).returncode == 0
    assert eve in listed(fleet, "--admins")
    assert fleet.skep("user", "make-admin", eve, "--revoke").returncode == 0
    assert eve not in listed(fleet, "--admins")


def test_deactivate_ends_the_account(fleet: RunningFleet, eve: str) -> None:
    token = log_in(fleet, eve, "first password")[1]["access_token"]
    done = fleet.skep("user", "deactivate", eve, "--yes")
    assert done.returncode == 0, done.stderr
    assert call(fleet, "GET", "/account/whoami", token=token)[0] == 401
    assert log_in(fleet, eve, "first password")[0] == 403
    assert eve in listed(fleet, "--deactivated")
    for command in (("reset-password", eve, "--password", "fourth password"), ("make-admin", eve)):
        refused = fleet.skep("user", *command)
        assert refused.returncode == 1 and "is no account of this server, or is" in refused.stderr
