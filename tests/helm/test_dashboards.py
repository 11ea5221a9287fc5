"""The dashboards: equal to what the code makes, every query answerable, nothing on top of anything else."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.promql import ROOT, asked, unknown

Program = Callable[..., subprocess.CompletedProcess[str]]

FOLDER = ROOT / "helm" / "dashboards"
NAMES = ("service", "drift")
# What Grafana puts in their place.
VARIABLES = {"$__rate_interval": "5m", "$job": ".*", "$adapter": ".*"}


def dashboard(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def expressions(name: str) -> Iterator[str]:
    whole = dashboard(name)
    for panel in whole["panels"]:
        for target in panel.get("targets", []):
            yield filled(target["expr"])
    for mark in whole["annotations"]["list"]:
        yield filled(mark["expr"])


def filled(expr: str) -> str:
    for variable, value in VARIABLES.items():
        expr = expr.replace(variable, value)
    return expr


def test_the_files_are_what_the_code_makes(tmp_path: Path) -> None:
    def check(folder: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(folder / "generate.py"), "--check"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    agreed = check(FOLDER)
    assert agreed.returncode == 0, agreed.stdout + agreed.stderr
    for path in (*FOLDER.glob("*.py"), *FOLDER.glob("*.json")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "drift.json").write_text("{}\n", encoding="utf-8")
    changed = check(tmp_path)
    assert changed.returncode == 1
    assert "drift.json is out of date" in changed.stdout


@pytest.mark.parametrize("name", NAMES)
def test_promtool_parses_every_expression(program: Program, tmp_path: Path, name: str) -> None:
    rules = [{"record": f"r{number}", "expr": expr} for number, expr in enumerate(expressions(name))]
    assert len(rules) >= 20
    file = tmp_path / "expressions.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}), encoding="utf-8")
    checked = program("promtool", "check", "rules", "--lint=none", str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_expression_asks_for_what_there_is(name: str) -> None:
    for expr in expressions(name):
        assert "$" not in expr
        assert unknown(expr) == [], expr
        assert asked(expr) or expr == "vector(0.001)"


@pytest.mark.parametrize("name", NAMES)
def test_panels_do_not_overlap_and_say_what_they_show(name: str) -> None:
    panels = dashboard(name)["panels"]
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken.get((x, y))}"
                taken[x, y] = panel["title"]
        if panel["type"] != "row":
            assert panel["description"].endswith((".", ")"))
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.parametrize("name", NAMES)
def test_rows_come_in_the_order_of_the_questions(name: str) -> None:
    rows = [panel["title"] for panel in dashboard(name)["panels"] if panel["type"] == "row"]
    assert [next(word for word in ("up", "fast", "drifting", "training") if word in row) for row in rows] == [
        "up",
        "fast",
        "drifting",
        "training",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_promotions_retrains_and_alarms_are_marked(name: str) -> None:
    whole = dashboard(name)
    assert [mark["name"] for mark in whole["annotations"]["list"]] == ["promotions", "retrains", "drift alarms"]
    assert [choice["name"] for choice in whole["templating"]["list"]] == ["datasource", "job", "adapter"]
    for choice in whole["templating"]["list"][1:]:
        metric = choice["definition"].removeprefix("label_values(").rpartition(",")[0]
        assert unknown(filled(metric)) == []
