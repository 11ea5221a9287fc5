"""The chart, loaded once and rendered in memory; the programs that judge rules and configurations, where they are."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"

Values = dict[str, Any]
Document = dict[str, Any]


def values(name: str) -> Values:
    """The values of one of the chart's own examples, helm/ci/NAME-values.yaml."""
    read: Values = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text(encoding="utf-8"))
    return read


@pytest.fixture(scope="session")
def chart() -> Iterator[helm_python.Chart]:
    """The chart of this repository."""
    with helm_python.Chart.load(str(CHART)) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def render(chart: helm_python.Chart) -> Callable[[Values], list[Document]]:
    """Values -> every document that `helm template release` gives, NOTES left out."""

    def documents(given: Values) -> list[Document]:
        files = chart.render(given, name="release", namespace="somewhere")
        texts = (text for name, text in files.items() if not name.endswith("NOTES.txt"))
        return [document for text in texts for document in yaml.safe_load_all(text) if document]

    return documents


@pytest.fixture(scope="session")
def program() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program such as promtool; skips where it is not installed."""

    def run(name: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed (Debian: prometheus, prometheus-alertmanager)")
        return subprocess.run([name, *arguments], capture_output=True, text=True, timeout=60, cwd=cwd, check=False)

    return run
