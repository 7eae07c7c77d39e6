"""Generate, check or describe the configuration: one YAML file for the whole fleet.

skep config generate --server-name example.org --directory /etc/skep
skep config check /etc/skep/skep.yaml
skep config schema --markdown
"""

import argparse
import json
from pathlib import Path

from deploy.command.options import UsageError
from shared.config.generate import production_sample, write_private, write_secrets
from shared.config.load import load_config
from shared.config.schema import documentation, json_schema
from shared.core.identifiers import is_server_name


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="config_command", required=True, metavar="COMMAND")

    generate = commands.add_parser(
        "generate",
        help="write a configuration for production with new keys and secrets",
        description="Write DIRECTORY/skep.yaml, and keys and secrets below DIRECTORY/secrets (mode 0600)."
        " Existing files are never changed.",
    )
    generate.add_argument(
        "--server-name", metavar="NAME", default="example.org", help="the part after the colon in user ids"
    )
    generate.add_argument("--directory", type=Path, metavar="DIRECTORY", help="where to write")
    generate.add_argument("--sample", action="store_true", help="only print the file, without secrets")

    check = commands.add_parser("check", help="list everything that is wrong with a configuration")
    check.add_argument("file", type=Path, metavar="FILE", help="the configuration")

    schema = commands.add_parser("schema", help="print the JSON schema, for editors and other tools")
    schema.add_argument("--markdown", action="store_true", help="print docs/configuration.md instead")


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError (check), UsageError (generate)."""
    match arguments.config_command:
        case "generate":
            return _generate(arguments)
        case "check":
            config = load_config(arguments.file)
            print(f"{arguments.file}: no problem found. Server name: {config.server_name}")
        case "schema" if arguments.markdown:
            print(documentation(), end="")
        case "schema":
            print(json.dumps(json_schema(), indent=2))
    return 0


def _generate(arguments: argparse.Namespace) -> int:
    if not is_server_name(arguments.server_name):
        raise UsageError(f"{arguments.server_name!r} is no server name. Use a name such as example.org.")
    text = production_sample(arguments.server_name)
    if arguments.sample:
        print(text, end="")
        return 0
    directory: Path | None = arguments.directory
    if directory is None:
        raise UsageError("Where to? Name a --directory, or print the file with --sample.")
    directory.mkdir(parents=True, exist_ok=True)
    if not write_private(directory / "skep.yaml", text):
        raise UsageError(f"{directory / 'skep.yaml'} exists already, and is left unchanged.")
    for path in (directory / "skep.yaml", *write_secrets(directory)):
        print(f"wrote {path}")
    password = directory / "secrets" / "database_password"
    print(f"Next: write the database's password into {password}, then run `skep config check`.")
    return 0
