"""docs/gate.md and the gate agree: every reason code, every setting with default and range, the levels it states."""

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from monitoring.collapse import GeometryLimits
from monitoring.gate import MARGIN_CAP, MOST_RESAMPLES, GateSettings, Outcome
from monitoring.limits import GATE, GEOMETRY, Range
from monitoring.significance import spent_level

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
TABLES = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]


def rows_of(heading: str) -> list[list[str]]:
    """The rows of the table whose first column is headed so."""
    start = next(at for at, row in enumerate(TABLES) if row[0] == heading) + 2
    width = len(TABLES[start - 2])
    found = []
    for row in TABLES[start:]:
        if not row[0].startswith("`") or len(row) != width:
            break
        found.append(row)
    return found


def code_of(argument: ast.expr) -> list[str]:
    """A code as the source gives it; what is filled in stands as <name>."""
    if isinstance(argument, ast.Constant):
        return [str(argument.value)]
    assert isinstance(argument, ast.JoinedStr)
    parts = [
        part.value if isinstance(part, ast.Constant) else f"<{ast.unparse(part.value)}>" for part in argument.values
    ]  # type: ignore[attr-defined]
    return ["".join(map(str, parts))]


def codes_in_the_source() -> set[str]:
    """The first argument of every Reason of the gate's; the geometry's findings by the names they are given."""
    found: set[str] = set()
    for path in sorted((ROOT / "monitoring").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "from monitoring.reasons import" not in source:
            continue  # the drift advice has reasons of its own
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                if node.func.id == "Reason":
                    found.update(code_of(node.args[0]))
                elif node.func.id == "_finding" and path.name == "collapse.py":
                    found.update(f"geometry_{name}" for name in code_of(node.args[0]))
    return found - {"geometry_<name>"}


def test_every_code_is_explained_and_no_other() -> None:
    codes = codes_in_the_source()
    assert len(codes) >= 20
    assert {row[0].strip("`") for row in rows_of("code")} == codes


@pytest.mark.parametrize(
    ("heading", "settings", "ranges"),
    [("setting", GateSettings(), GATE), ("setting in `geometry`", GeometryLimits(), GEOMETRY)],
)
def test_every_setting_has_its_default_and_range(heading: str, settings: Any, ranges: dict[str, Range]) -> None:
    told = {row[0].strip("`"): row for row in rows_of(heading)}
    assert list(told) and set(told) == {field.name for field in dataclasses.fields(settings)}  # noqa: PT018
    for name, allowed in ranges.items():
        _, default, between, _ = told[name]
        assert float(default) == getattr(settings, name), name
        assert tuple(map(float, between.split(" to "))) == (allowed.low, allowed.high), name
    if heading == "setting":
        assert told["primary"][1] == settings.primary
        assert told["guards"][1] == ", ".join(settings.guards)
        assert set(told) - set(ranges) == {"primary", "guards", "geometry"}


def test_every_outcome_and_the_stated_numbers() -> None:
    assert {row[0].strip("`") for row in rows_of("outcome")} == {outcome.value for outcome in Outcome}
    assert f"{MOST_RESAMPLES:,}" in PAGE
    assert f"min({MARGIN_CAP}, margin_items / clusters)" in PAGE
    uses = next(row for row in TABLES if row[0] == "verdict on the same rows")[1:]
    levels = next(row for row in TABLES if row[0].startswith("level at confidence"))[1:]
    for use, level in zip(uses, levels, strict=True):
        assert float(level) == pytest.approx(spent_level(0.05, int(use)), rel=0.02)


@pytest.mark.parametrize(("tests", "verdicts", "told"), [(8, 13, "thirteen"), (4, 19, "nineteen")])
def test_a_set_is_spent_after_as_many_verdicts_as_stated(tests: int, verdicts: int, told: str) -> None:
    """Of labelled rows: the primary and three guards, against one rival or two."""
    seen = [spent_level(0.05, use) / 2 / tests * MOST_RESAMPLES >= 1 for use in (verdicts, verdicts + 1)]
    assert seen == [True, False]
    assert told in PAGE


def test_the_page_is_plain_about_metrics_that_are_judged() -> None:
    named = {name.strip("`") for name in re.findall(r"^\| (`\w+`) \|", PAGE, re.MULTILINE)}
    assert {"ndcg_at_10", "knn_accuracy", "nn_accuracy", "robustness", "calibration"} <= named
