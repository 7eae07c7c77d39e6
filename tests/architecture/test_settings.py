"""The code reads every declared setting. A setting without effect is dangerous, above all a security setting."""

import re
from pathlib import Path

from mypy import api

from shared.config import sections
from shared.config.reading import keys_of
from shared.config.schema import record_in

ROOT = Path(__file__).parents[2]
SECTIONS = ROOT / "shared/config/sections.py"
#: Sections that the code reads by computed names: `Fleet.counts`, and one limit for each class of endpoints.
READ_AS_A_WHOLE = {"Fleet", "RateLimits"}
#: Modules that handle all settings alike. A read there gives a setting no effect.
WITHOUT_EFFECT = ("relations", "load", "reading", "schema", "writing", "generate")


def settings() -> set[tuple[str, str]]:
    """Return (section, key) of every setting that is not a section itself."""
    found: set[tuple[str, str]] = set()
    for name, record in vars(sections).items():
        if isinstance(record, type) and record.__module__ == sections.__name__ and name not in READ_AS_A_WHOLE:
            found |= {(name, key) for key, hint in keys_of(record).items() if record_in(hint) is None}
    return found


def test_every_setting_is_read(tmp_path: Path) -> None:
    """Rename every setting for the type checker, so that it reports each read as an unknown attribute."""
    source, section, renamed = SECTIONS.read_text(encoding="utf-8"), "", []
    for line in source.splitlines():
        if begin := re.match(r"class (\w+)", line):
            section = begin[1]
        key = re.match(r"    (\w+): ", line)
        rename = key is not None and (section, key[1]) in settings()
        renamed.append(line.replace(f"{key[1]}:", f"{key[1]}__renamed:", 1) if key and rename else line)
    shadow = tmp_path / "sections.py"
    shadow.write_text("\n".join(renamed) + "\n", encoding="utf-8")
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--no-pretty"]
    options += ["--cache-dir", str(ROOT / ".mypy_cache" / "settings")]  # a separate cache for the renamed settings
    report, failure, _ = api.run([*options, "--shadow-file", str(SECTIONS), str(shadow)])
    assert not failure, failure

    read: set[tuple[str, str]] = set()
    for module, section, key in re.findall(r'(?m)^([^:]+)\.py:\d+: error: "(\w+)" has no attribute "(\w+)"', report):
        if not module.endswith(tuple(f"shared/config/{name}" for name in WITHOUT_EFFECT)):
            read.add((section, key))
    assert len(read) > 50, report[:2000]
    assert settings() - read == set(), "nothing reads these settings: remove them until their feature is there"
