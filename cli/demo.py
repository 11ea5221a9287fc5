"""`driftline demo`: the whole loop on a support desk's messages, in under three minutes, against a real service."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import typer
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cli.common import AsJson, DataDir, console, errors, fail, friendly
from cli.demo_client import DemoClient
from cli.demo_data import load_tickets
from cli.demo_tour import Tour
from cli.server import ServiceError, running_service
from registry import backbones
from registry.home import Home


@friendly
def demo(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Embed, refit, judge, promote, drift, alarm, refit again: the loop on a small support desk, with real parts."""
    home = Home.at(data_dir)
    try:
        tickets = load_tickets()
    except FileNotFoundError:
        raise fail("the example files are missing; run the demo from a full checkout (examples/support-desk)") from None
    own = _prepare(home)
    start = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    try:
        with (
            Progress(*columns, console=console, transient=True, disable=as_json) as bar,
            running_service(own.data_dir, settings={"DRIFTLINE_DATABASE_URL": own.database_url}) as url,
        ):
            tour = Tour(DemoClient(url), tickets, bar, quiet=as_json)
            facts = tour.run()
    except ServiceError as error:
        raise fail(str(error)) from None
    facts["seconds"] = round(time.monotonic() - start, 1)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, default=str))
    else:
        console.print(_summary(facts, own.data_dir))
    if not facts["as_expected"]:
        raise typer.Exit(1)


def _prepare(home: Home) -> Home:
    """A fresh home for the demo inside the user's, with the user's backbone in it (imported first if there is none)."""
    folder = home.data_dir / "demo"
    own = Home(folder, f"sqlite:///{folder / 'registry.sqlite'}")  # also where the user's own registry is elsewhere
    shutil.rmtree(own.data_dir, ignore_errors=True)
    registry, mine = home.registry(), own.registry()
    try:
        with registry.reading() as session:
            backbone = backbones.default(session)
        if backbone is None:
            errors.print("No backbone is imported yet: importing the default one first (half a minute, once).")
            from training.export import import_backbone

            manifest = import_backbone(None, registry.store)
            with registry.writing() as session:
                backbone = backbones.add(session, manifest.to_dict(), manifest.digest)
        document = json.loads(registry.fetch(backbone.digest))
        for digest in [backbone.digest, *(entry["sha256"] for entry in document["files"].values())]:
            mine.store(registry.fetch(digest))
        with mine.writing() as session:
            backbones.add(session, document, backbone.digest)
    finally:
        registry.close()
        mine.close()
    return own


def _summary(facts: dict[str, Any], folder: Path) -> Panel:
    lines = [
        "Right intent on messages kept back: "
        f"{facts['accuracy_before']:.1%} before, {facts['accuracy_after']:.1%} after",
        f"Gate: {facts['verdict']}, so {facts['version']} went live without a restart",
        f"Normal traffic, {facts['normal_requests']} requests: "
        + ("a false alarm" if facts["alarm_on_normal_traffic"] else "no alarm"),
        f"Drifted traffic: alarm after {facts['requests_until_alarm']} requests"
        if facts["requests_until_alarm"]
        else "Drifted traffic: no alarm",
        f"The alert queued a second refit: {facts['second_verdict']}, {_after_second(facts)}",
        "",
        f"All of it ran on this machine in {facts['seconds']:.0f} s. The demo's own data is in {folder}",
        "and can be deleted. Next: scripts/serve, then point an OpenAI client at http://127.0.0.1:8080/v1",
    ]
    return Panel("\n".join(lines), title="What happened", expand=False)


def _after_second(facts: dict[str, Any]) -> str:
    if facts["second_promoted"]:
        return "so it went live"
    if facts["second_verdict"] == "pass":
        return f"and waits for you to promote it; {facts['version']} stays live"
    return f"so {facts['version']} stays live"
