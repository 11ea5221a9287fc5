"""Writes docs/metrics.md, docs/settings.md and docs/commands.md from the code: `python docs/generate.py [--check]`.

With --check nothing is written, and the exit status is 1 when a page is out of date.
"""

import sys
from pathlib import Path
from typing import Any

import typer.main

from cli.main import app
from monitoring.metrics import Metrics
from service.settings import Settings

FOLDER = Path(__file__).resolve().parent
WORKER_SETTINGS = """\
## The worker

The training worker, started by `driftline serve`, `driftline worker` or `driftline retrain --wait`, reads
`DRIFTLINE_PROVIDER`, `DRIFTLINE_PRECISION` and `DRIFTLINE_THREADS` as well, and these:

| variable | default | meaning |
| --- | --- | --- |
| `DRIFTLINE_WORKER_ID` | kept in `worker.id` in the data folder | Only on PostgreSQL: the name of the worker. The \
next one under that name takes its job up at once, so set it where the data folder does not outlive the worker; no two \
workers may share one. |
| `DRIFTLINE_TAKE_OVER_SECONDS` | `60` | Seconds without a sign of life from a worker after which another takes its \
job up, from the beginning; the same for all workers of an installation, and at least 2. |
| `DRIFTLINE_MODELS` |  | Folders of pretrained models, separated like those of PATH: where a LoRA fit finds the model \
in torch that a backbone was imported from. The default backbone's, and one still in the hub's cache, are found \
without it. |
| `DRIFTLINE_CRASH_AT` |  | For tests: the worker kills itself at this point of a job, such as `publish.after`. |
"""


def metrics_page() -> str:
    """Every Prometheus instrument."""
    rows = "\n".join(
        f"| `{each.name}` | {each.kind} | {', '.join(each.labels)} | {each.help} |" for each in Metrics().catalogue
    )
    return (
        "# Metrics\n\n"
        "What `GET /metrics` exports. Counts rather than averages, so that replicas add up.\n\n"
        f"| name | kind | labels | meaning |\n| --- | --- | --- | --- |\n{rows}\n"
    )


def settings_page() -> str:
    """Every setting of the service."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        lines.append(f"| `DRIFTLINE_{name.upper()}` | {default} | {field.description} |")
    rows = "\n".join(lines)
    return (
        "# Settings\n\n"
        "Environment variables of `driftline serve`. `DRIFTLINE_DATA_DIR` and `DRIFTLINE_DATABASE_URL` hold for every\n"
        "command; options on the command line win.\n\n"
        f"| variable | default | meaning |\n| --- | --- | --- |\n{rows}\n\n{WORKER_SETTINGS}"
    )


def leaves(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    """Every command that does something, with its words."""
    children = getattr(command, "commands", None)
    if children is None:
        return [(" ".join(path), command)]
    return [leaf for name, child in children.items() for leaf in leaves(child, (*path, name))]


def _shown(argument: Any) -> str:
    name: str = argument.name.upper()
    return name if argument.required else f"[{name}]"


def commands_page() -> str:
    """Every command with its arguments and options."""
    parts = []
    for words, command in leaves(typer.main.get_command(app)):
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and "--data-dir" not in p.opts]
        names = "".join(f" {_shown(p)}" for p in arguments)
        lines = [f"## `driftline {words}{names}`\n", (command.help or "").strip(), ""]
        lines += [f"- `{p.name.upper()}`: {p.help or ''}" for p in arguments]
        lines += [f"- `{p.opts[0]}`{' (required)' if p.required else ''}: {p.help or ''}" for p in options]
        parts.append("\n".join(lines).rstrip())
    return (
        "# Commands\n\n"
        "Every command takes `--data-dir` (or `DRIFTLINE_DATA_DIR`): where Driftline keeps its registry and\n"
        "artifacts, `~/.local/share/driftline` by default. Exit status: 0 done, 1 refused or failed, 2 wrong usage.\n\n"
        + "\n\n".join(parts)
        + "\n"
    )


PAGES = {"metrics.md": metrics_page, "settings.md": settings_page, "commands.md": commands_page}


def stale() -> list[str]:
    """Names of the pages that do not agree with the code."""
    return [
        name
        for name, page in PAGES.items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text(encoding="utf-8") != page()
    ]


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        found = stale()
        print("\n".join(f"docs/{name} is out of date; run: python docs/generate.py" for name in found))
        sys.exit(bool(found))
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
