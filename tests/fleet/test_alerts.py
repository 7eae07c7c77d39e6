"""Alerts and their documentation: every metric of a rule is exported, and every rule is explained."""

import re

import yaml

from tests.fix_fleet import ROOT, RunningFleet
from tests.fleet.observing import metrics, workers

_RULES = ROOT / "deploy" / "alerts" / "skep.rules.yml"
_PAGE = ROOT / "docs" / "operations" / "metrics_and_alerts.md"


def rules() -> dict[str, str]:
    """Return alert -> expression."""
    groups = yaml.safe_load(_RULES.read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def test_every_metric_of_an_alert_is_exported_by_a_running_fleet(fleet: RunningFleet) -> None:
    exported = set()
    for process in workers(fleet.status()):
        for family in metrics(process):
            suffixes = ("_total",) if family.type == "counter" else ("_bucket", "_sum", "_count", "")
            exported |= {family.name + suffix for suffix in suffixes}
    wanted = {name for expression in rules().values() for name in re.findall(r"skep_\w+", expression)}
    assert wanted - exported == set()


def test_every_alert_is_explained_and_every_metric_on_the_page_exists() -> None:
    page = _PAGE.read_text()
    assert set(re.findall(r"`(Skep\w+)`", page)) == set(rules())
    sources = "".join(path.read_text() for path in (ROOT / "shared" / "metrics").glob("*.py"))
    for name in re.findall(r"skep_\w+[a-z]", page):
        assert name.removesuffix("_total") in sources, name
