"""Rules of the house that no linter knows: file sizes, first lines, who may import the runtime."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cli", "service", "training", "monitoring", "encoder", "registry")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_says_its_job_and_stays_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source)), "the first lines say what the file is for"
    assert len(source.splitlines()) <= 400


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("onnxruntime", {"encoder/runtime/session.py", "encoder/runtime/openvino.py"}),
        ("prometheus_client", {"monitoring/metrics.py"}),
        ("opentelemetry", {"monitoring/tracing.py"}),
    ],
)
def test_one_file_knows_the_library(module: str, allowed: set[str]) -> None:
    users = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            if any(name.split(".")[0] == module for name in names):
                users.add(str(path.relative_to(ROOT)))
    assert users <= allowed


def test_the_serving_process_never_loads_torch() -> None:
    code = "import service.app, sys; print(sorted({'torch', 'transformers', 'dbos'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
