"""The configuration with which `skep up` starts, and the notes about its name."""

import dataclasses
from pathlib import Path

import pytest

from deploy.local.before_start import Wanted, check_ports, name_notes, starting_config, with_command_line
from deploy.local.data_directory import DataDirectory
from deploy.local.servers.unprivileged import CannotRunHere
from shared.config.sections import Config


def start(directory: Path, **ports: int) -> Config:
    return starting_config(DataDirectory(directory), Wanted(data=directory, **ports)).config  # type: ignore[arg-type]


def test_configuration_is_not_written_before_the_fleet_has_started(tmp_path: Path) -> None:
    """So a start that failed on one port leaves no name that does not fit the next one's port."""
    wanted = Wanted(data=tmp_path, federation_port=8500)
    starting = starting_config(DataDirectory(tmp_path), wanted)
    assert starting.config.server_name == "localhost:8500" and starting.unwritten is not None
    assert not starting.path.exists()
    assert start(tmp_path, federation_port=8600).server_name == "localhost:8600"
    starting.path.write_text(starting.unwritten)
    again = starting_config(DataDirectory(tmp_path), wanted)
    assert again.config == starting.config and again.unwritten is None


def test_secrets_of_a_new_configuration_are_private(tmp_path: Path) -> None:
    start(tmp_path)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()} == {0o600}
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


def test_development_server_is_called_localhost_at_the_usual_port(tmp_path: Path) -> None:
    config = start(tmp_path)
    assert config.server_name == "localhost" and config.user_directory.search_all_users
    assert name_notes(config) == []


def test_notes_about_a_name_with_a_port(tmp_path: Path) -> None:
    config = start(tmp_path, federation_port=8500)
    [cut_off] = name_notes(config)
    assert "Some clients cut it off" in cut_off and config.public_base_url in cut_off
    moved = dataclasses.replace(
        config.listeners, federation=dataclasses.replace(config.listeners.federation, port=8600)
    )
    [_, not_found] = name_notes(dataclasses.replace(config, listeners=moved))
    assert "--federation-port 8500" in not_found
    [plain] = name_notes(dataclasses.replace(config, server_name="localhost"))
    assert "--federation-port 8448" in plain
    assert name_notes(dataclasses.replace(config, server_name="example.org")) == []


def test_one_port_for_both_listeners_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotRunHere, match="Name two with --client-port"):
        start(tmp_path, client_port=8500, federation_port=8500)
    config = with_command_line(start(tmp_path), Wanted(data=tmp_path, client_port=8448))
    with pytest.raises(CannotRunHere, match="Name two with --client-port"):
        check_ports(config)
