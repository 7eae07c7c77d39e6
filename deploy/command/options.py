"""Options and arguments that several commands share."""

import argparse
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

from shared.config.load import load_config
from shared.config.sections import Config
from shared.core.errors import SkepError


class UsageError(SkepError):
    """The command cannot do what was asked. The message says what to do instead."""


#: Places of the configuration when nothing names it: a file here, then the fleet of `skep up`.
_USUAL_PLACES = (Path("skep.yaml"), Path("data/run/skep.yaml"))
#: Names of processes are part of haproxy's server names and of log lines.
_PROCESS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def add_config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the fleet's configuration ($SKEP_CONFIG; else ./skep.yaml, else ./data/run/skep.yaml)",
    )


def config_path(arguments: argparse.Namespace) -> Path:
    """Return the file that --config, the environment or the usual places name. Raises UsageError if there is none."""
    named: Path | None = arguments.config
    if named is None and os.environ.get("SKEP_CONFIG"):
        named = Path(os.environ["SKEP_CONFIG"])
    if named is not None:
        return named
    for path in _USUAL_PLACES:
        if path.exists():
            return path
    raise UsageError(
        "Which configuration? Name it with --config FILE or $SKEP_CONFIG. For a fleet of `skep up --data DIR`"
        " it is DIR/run/skep.yaml while it runs; `skep config generate` makes a new one."
    )


def load_named_config(arguments: argparse.Namespace) -> Config:
    """Load the configuration that the command line names. Raises UsageError, ConfigurationError."""
    return load_config(config_path(arguments))


def whole_number(least: int, greatest: int) -> Callable[[str], int]:
    """Return the type of an argument that is a whole number within these limits."""

    def parse(text: str) -> int:
        try:
            value = int(text) if text.isascii() and len(text) < 20 else None
        except ValueError:
            value = None
        if value is None or not least <= value <= greatest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {greatest}")
        return value

    return parse


def days(text: str) -> float:
    """Parse an argument that is a number of days, up to a century."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 36_525:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 0 to 36525")
    return value


def process_name(text: str) -> str:
    """Parse an argument that is the name of a process."""
    if not _PROCESS_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be the name of a process: use 1 to 100 letters, digits and . _ -, and no . _ - at first"
        )
    return text


tcp_port = whole_number(1, 65535)
