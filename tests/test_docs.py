"""Documentation and code agree: metrics, settings and commands are described; every guarantee names a real test."""

import ast
import re
from pathlib import Path

import typer.main
from click import Group

from cli.main import app
from monitoring import metrics
from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent


def test_every_metric_is_documented_with_its_labels() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for instrument in metrics.describe():
        assert f"`{instrument.name}`" in page, instrument.name
    documented = set(re.findall(r"^\| `(driftline_\w+)`", page, re.MULTILINE))
    assert documented == {instrument.name for instrument in metrics.describe()}


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    expected = {f"DRIFTLINE_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"^\| `(DRIFTLINE_\w+)`", page, re.MULTILINE)) == expected


def test_every_command_is_documented_and_takes_a_data_dir() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    root = typer.main.get_command(app)
    assert isinstance(root, Group)
    for name, command in root.commands.items():
        group = isinstance(command, Group)
        leaves = [(f"{name} {leaf}", c) for leaf, c in command.commands.items()] if group else [(name, command)]
        for full, leaf in leaves:
            assert f"`driftline {full}" in page, full
            assert any("--data-dir" in parameter.opts for parameter in leaf.params), full


def test_every_guarantee_names_a_test_that_exists() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) >= 10
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert test in functions, f"{file}::{test}"


def test_the_decisions_are_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    for record in sorted(folder.glob("0*.md")):
        assert record.name in index
