"""Documentation and code agree: generated pages are fresh, guarantees name real tests, links lead somewhere."""

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import typer.main

from cli.main import app
from service import Settings, client_schemas, create_app

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
        # A secret that is generated is stored nowhere.
        assert words == "key generate" or any("--data-dir" in parameter.opts for parameter in command.params), words
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


def test_the_clients_page_names_routes_and_settings_that_exist(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    document = create_app(Settings(data_dir=tmp_path)).openapi()
    offered = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    named = set(re.findall(r"`(GET|POST) (/[\w/]*)`", page))
    assert named <= offered.keys()
    of_others = {route for route, operation in offered.items() if "clients of others" in operation["tags"]}
    assert len(of_others) >= 10
    assert of_others <= named
    settings = {f"DRIFTLINE_{name.upper()}" for name in Settings.model_fields}
    mentioned = set(re.findall(r"DRIFTLINE_\w+", page))
    assert len(mentioned) >= 3
    assert mentioned <= settings


def test_the_clients_page_names_fields_that_are_described() -> None:
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    described = {
        "/embed": client_schemas.EMBED,
        "/similarity": client_schemas.SIMILARITY,
        "/rerank": client_schemas.RERANK_EITHER,
        "/v1/rerank": client_schemas.RERANK,
        "/v2/embed": client_schemas.COHERE_EMBED,
    }
    for path, operation in described.items():
        (fields,) = re.findall(rf"^\| `POST {path}`[^|]*\|[^|]*\|([^|]*)\|$", page, re.MULTILINE)
        known = keys_of(operation["requestBody"]["content"]["application/json"]["schema"])
        named = {part for name in re.findall(r"`([\w.]+)`", fields) for part in name.split(".")}
        assert named - {"float", "base64"} <= known, path


def keys_of(schema: Any) -> set[str]:
    """Names of all properties of a schema, nested ones too."""
    properties = schema.get("properties", {})
    return set(properties).union(*(keys_of(inner) for inner in properties.values()))
