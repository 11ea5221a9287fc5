"""The rules for Prometheus: they parse, do what their tests say, ask for what there is, and each alert is explained."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer.main
import yaml

from cli.main import app
from monitoring.metrics import Metrics
from service.settings import Settings
from tests.helm.promql import ROOT, RULES, asked, grouped, known, rules, unknown

Program = Callable[..., subprocess.CompletedProcess[str]]

TESTS = sorted((ROOT / "helm" / "rules" / "tests").glob("*.yaml"))
ALERTS = [rule for rule in rules() if "alert" in rule]
PAGE = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")


def test_every_file_of_rules_has_tests() -> None:
    assert [path.name for path in RULES] == [path.name for path in TESTS]
    assert len(RULES) >= 3


def test_promtool_accepts_the_rules(program: Program) -> None:
    checked = program("promtool", "check", "rules", "--lint-fatal", *map(str, RULES))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_the_rules_do_what_their_tests_say(program: Program, path: Any) -> None:
    tested = program("promtool", "test", "rules", str(path))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_shown_firing_and_silent() -> None:
    fires, silent = set(), set()
    for path in TESTS:
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for case in test.get("alert_rule_test", []):
                (fires if case.get("exp_alerts") else silent).add(case["alertname"])
    names = {rule["alert"] for rule in ALERTS}
    assert fires == names
    assert silent == names


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_an_expression_asks_for_what_there_is(rule: dict[str, Any]) -> None:
    assert unknown(rule["expr"]) == []
    assert asked(rule["expr"])


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_is_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"Driftline[A-Z]\w+", rule["alert"])
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"


def test_the_page_explains_every_alert_and_every_recorded_series_and_no_other() -> None:
    assert sorted(re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)) == sorted(rule["alert"] for rule in ALERTS)
    recorded = [rule["record"] for rule in rules() if "record" in rule]
    assert sorted(re.findall(r"^\| `([\w:]+:[\w:]+)` \|", PAGE, re.MULTILINE)) == sorted(recorded)
    anchors = set(re.findall(r"\]\(#(\w+)\)", PAGE))
    assert anchors <= {rule["alert"].lower() for rule in ALERTS}


def test_the_page_names_commands_and_settings_that_exist() -> None:
    def takes(words: str) -> bool:
        return any(" ".join(words.split()[:count]) in commands for count in (1, 2, 3))

    commands = set(_leaves(typer.main.get_command(app)))
    named = re.findall(r"`driftline ([^`]+)`", PAGE)
    assert len(named) >= 8
    assert [words for words in named if not takes(words)] == []
    settings = {f"DRIFTLINE_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"DRIFTLINE_\w+", PAGE)) <= settings


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command that does something, by its words."""
    children = getattr(command, "commands", None)
    if children is None:
        yield " ".join(path)
        return
    for name, child in children.items():
        yield from _leaves(child, (*path, name))


def test_what_is_scraped_is_well_named() -> None:
    """promtool's own rules for names and help; every instrument shows a series."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    metrics = Metrics()
    for instrument in vars(metrics).values():
        names = getattr(instrument, "_labelnames", ())
        if names:
            instrument.labels(*("x" for _ in names))
    body, _ = metrics.exposition()
    assert body.count(b"# HELP") == len(metrics.catalogue)
    checked = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_only_what_a_refit_can_mend_asks_for_one() -> None:
    assert [rule["alert"] for rule in ALERTS if rule["labels"].get("action") == "retrain"] == ["DriftlineDriftDetected"]


def test_what_is_asked_is_found_whatever_is_around_it() -> None:
    expr = (
        'sum without (instance) (rate(driftline_texts_total{job=~"a{b", model!=""}[5m] offset 1h)) '
        '/ on (job) group_left () (label_replace(up, "adapter", "$1", "x", "(.*)") > 0) and adapter_x:driftline_y:max'
    )
    assert asked(expr) == [
        ("driftline_texts_total", {"job", "model"}),
        ("up", set()),
        ("adapter_x:driftline_y:max", set()),
    ]
    assert grouped(expr) == {"instance", "job"}
    assert unknown('driftline_texts_total{adapter="a"}') == ["label adapter of driftline_texts_total"]
    assert unknown("sum by (nothing) (driftline_text_total)") == ["label nothing", "metric driftline_text_total"]
    assert known()["driftline_request_seconds_bucket"] == {"route", "le"}
