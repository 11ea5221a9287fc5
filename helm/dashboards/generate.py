"""Writes service.json and drift.json, Grafana's dashboards: `python helm/dashboards/generate.py [--check]`.

With --check nothing is written, and the exit status is 1 when a file is out of date.
"""

import json
import sys
from pathlib import Path
from typing import Any

from drift_dashboard import DRIFT
from service_dashboard import SERVICE

FOLDER = Path(__file__).resolve().parent
DASHBOARDS: dict[str, dict[str, Any]] = {"service.json": SERVICE, "drift.json": DRIFT}


def text(dashboard: dict[str, Any]) -> str:
    """A dashboard as it is written."""
    return json.dumps(dashboard, indent=1, ensure_ascii=False) + "\n"


def stale() -> list[str]:
    """Names of the files that are not what the code says."""
    return [
        name
        for name, dashboard in DASHBOARDS.items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text(encoding="utf-8") != text(dashboard)
    ]


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        found = stale()
        print(
            "\n".join(
                f"helm/dashboards/{name} is out of date; run: python helm/dashboards/generate.py" for name in found
            )
        )
        sys.exit(bool(found))
    for name, dashboard in DASHBOARDS.items():
        (FOLDER / name).write_text(text(dashboard), encoding="utf-8")
