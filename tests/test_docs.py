"""Documentation and code agree: generated pages are fresh, guarantees name real tests, links lead somewhere."""

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import typer.main

from cli.main import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_metrics_settings_and_commands_pages_agree_with_the_code() -> None:
    assert generator().stale() == [], "run: python docs/generate.py"


def test_every_command_takes_a_data_dir_and_says_what_it_does() -> None:
    found = generator().leaves(typer.main.get_command(app))
    assert len(found) >= 20
    for words, command in found:
        assert any("--data-dir" in parameter.opts for parameter in command.params), words
        assert command.help, words


def test_every_guarantee_names_a_test_that_exists() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) >= 10
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert test in functions, f"{file}::{test}"


def test_local_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_the_decisions_are_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    records = sorted(folder.glob("0*.md"))
    assert len(records) >= 5
    for record in records:
        assert record.name in index
