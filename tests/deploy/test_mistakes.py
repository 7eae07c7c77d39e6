"""Mistakes on the command line: each command answers with a sentence that says what to do, never with a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.command.main import main
from shared.config.generate import write_secrets
from tests.fix_servers import TestDatabase

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration whose database does not answer. The tests run in its directory, where nothing else is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SKEP_CONFIG", raising=False)
    return write_config(tmp_path / "skep.yaml", {"hosts": ["127.0.0.1:1"]})


def write_config(path: Path, database: dict[str, object]) -> Path:
    write_secrets(path.parent)
    values = {
        "server_name": "example.org",
        "public_base_url": "https://example.org",
        "signing": {"key_file": "secrets/signing_key"},
        "secrets": {
            "internal_secret_file": "secrets/internal_secret",
            "registration_shared_secret_file": "secrets/registration_shared_secret",
        },
        "listeners": {"client": {"port": 1}},
        "database": database,
        "redis": {"host": "127.0.0.1"},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def skep(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must fail; return its words on stderr."""
    try:
        code = main(words)
    except SystemExit as refused:
        code = int(refused.code or 0)
    assert code in (1, 2), words
    text = capsys.readouterr().err
    assert "Traceback" not in text and text.strip()
    return text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("status", "127.0.0.1:1/skep"),
        ("migrate", "cannot be used"),
        ("drain x", "cannot be used"),
        ("drain a;b", "cannot be the name of a process"),
        ("undrain x", "cannot be used"),
        ("move rooms 717 x", "cannot be used"),
        ("move rooms 1024 x", "numbered from 0 to 1023"),
        ("move rooms @a:b x", "a room id"),
        ("move rooms ² x", "a room id"),
        ("rebalance", "cannot be used"),
        ("room purge !a:b --before-days 1", "cannot be used"),
        ("room purge !a:b --before-days nan", "not a number of days"),
        ("room purge !a:b --before-days 1e300", "not a number of days"),
        ("room purge !a:b --before-days 1 --keep 0", "not a whole number"),
        ("room delete !a:b", "cannot be used"),
        ("room continue", "cannot be used"),
        ("check rooms", "cannot be used"),
        ("check rooms --sample -5", "not a whole number"),
        ("registration-token list", "cannot be used"),
        ("registration-token create --days 1e300", "not a number of days"),
        ("registration-token create --uses 100000000000000000000", "not a whole number"),
        ("registration-token create --uses 0", "not a whole number"),
        ("registration-token create --token ä", "letters, digits"),
        ("user list", "cannot be used"),
        ("user register eve --password x", "Is the fleet running?"),
        ("user register @eve:elsewhere --password x", "belongs to another server"),
        ("user register eve --password x --url http://[::1", "is not a URL"),
        ("user register eve --password x --url http://h:99999", "is not a URL"),
        ("user register eve --password x --url ftp://h", "is not a URL"),
        ("user reset-password eve --password x", "cannot be used"),
        ("user make-admin eve", "cannot be used"),
        ("user deactivate eve --yes", "cannot be used"),
        ("worker synchrotron", "cannot be used"),
        ("worker synchrotron --listen nowhere", "--listen takes"),
        ("worker synchrotron --listen 127.0.0.1:70000", "--listen takes"),
        ("worker synchrotron --name a;b", "cannot be the name of a process"),
        ("worker nonsense", "invalid choice"),
        ("main", "cannot be used"),
        ("haproxy-config", "Set haproxy.runtime_sockets"),
        ("up --client-port 99999", "not a whole number from 1 to 65535"),
        ("up --client-port 0", "not a whole number from 1 to 65535"),
        ("up --config nowhere.yaml", "nowhere.yaml"),
        ("config check secrets", "secrets"),
        ("config check nowhere", "nowhere"),
        ("config generate", "--directory"),
        ("config generate --directory skep.yaml", "skep.yaml"),
        ("config generate --directory /proc/nowhere", "/proc/nowhere"),
        ('config generate --server-name a"b --sample', "no server name"),
        ("nonsense", "invalid choice"),
    ],
)
def test_mistake_is_answered_with_a_sentence(
    config: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    text = skep(capsys, *words.split())
    assert said in text, text


def test_haproxy_config_lists_everything_that_is_missing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = skep(capsys, "haproxy-config")
    assert "haproxy.runtime_sockets" in text and "certificate_file" in text


@pytest.mark.parametrize("place", ["file", "below a file", "unwritable"])
def test_up_names_a_data_directory_that_it_cannot_use(
    config: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    data = {"file": config, "below a file": config / "data", "unwritable": Path("/proc/skep")}[place]
    assert str(data) in skep(capsys, "up", "--data", str(data))


def test_standard_input_without_a_password(config: Path) -> None:
    command = [sys.executable, "-m", "deploy.command.main", "user", "register", "eve", "--config", str(config)]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "No password: name one with --password, pipe it in" in done.stderr


def test_standard_input_without_a_confirmation(config: Path) -> None:
    command = [sys.executable, "-m", "deploy.command.main", "user", "deactivate", "eve", "--config", str(config)]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "add --yes" in done.stderr


def test_arguments_that_are_not_utf_8(capsys: pytest.CaptureFixture[str]) -> None:
    assert "UTF-8" in skep(capsys, "user", "register", os.fsdecode(b"\xff"))


def test_database_without_schema_or_without_existence(
    config: Path, postgres: TestDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    section = {"hosts": list(postgres.section.hosts), "port": postgres.section.port}
    write_config(config, {**section, "name": "template1"})
    for words in ("status", "user list", "room continue", "worker media", "check rooms"):
        assert "skep migrate --config" in skep(capsys, *words.split())
    write_config(config, {**section, "name": "missing"})
    for words in ("status", "migrate", "user list"):
        assert '"missing" does not exist' in skep(capsys, *words.split())
    write_config(config, {**section, "user": "stranger"})
    assert '"stranger" does not exist' in skep(capsys, "status")


def test_configuration_of_skep_up_names_the_effective_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--config DATA/skep.yaml` has no database: say that nothing runs, or which file the running fleet has."""
    config = write_config(tmp_path / "skep.yaml", {})
    for command in ("status", "worker media", "migrate", "user list"):
        text = skep(capsys, *command.split(), "--config", str(config))
        assert "no fleet runs on" in text and f"skep up --data {tmp_path}" in text

    effective = tmp_path / "run" / "skep.yaml"
    effective.parent.mkdir()
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    process = {"name": "supervisor", "type": "supervisor", "pid": os.getpid(), "start_ticks": int(ticks)}
    record = {"parent_pid": os.getpid(), "config": "", "client_url": "", "federation_url": "", "database": ""}
    record["processes"] = [{**process, "host": "", "address": "", "log": ""}]
    (tmp_path / "run" / "fleet.json").write_text(json.dumps(record))
    assert f"--config {effective}" in skep(capsys, "status", "--config", str(config))

    (tmp_path / "run" / "fleet.json").unlink()
    write_config(effective, {"hosts": [str(tmp_path / "run")]})
    assert f"No fleet runs on {tmp_path}" in skep(capsys, "status", "--config", str(effective))
