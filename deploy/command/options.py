"""Options that several commands share."""

import argparse
import os
from pathlib import Path

from shared.config.load import load_config
from shared.config.sections import Config
from shared.core.errors import SkepError


class UsageError(SkepError):
    """The command cannot do what it was asked; the message says what to do instead."""


#: Where the configuration is looked for when nothing names it: a file here, then the fleet of `skep up`.
_USUAL_PLACES = (Path("skep.yaml"), Path("data/run/skep.yaml"))


def add_config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the fleet's configuration ($SKEP_CONFIG; else ./skep.yaml, else ./data/run/skep.yaml)",
    )


def config_path(arguments: argparse.Namespace) -> Path:
    """Return the file that --config, the environment or the usual places name. Raises UsageError for none."""
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
