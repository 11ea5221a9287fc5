"""What the last step of a retrain does with a version: live at once, on trial first, or left to a person."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monitoring.recipe import Recipe
from registry import backbones, datasets, jobs, rollouts, versions
from registry.home import Home
from registry.registry import Registry
from registry.states import VersionState
from training import publish
from training.files import WorkFolder

BACKBONE = "b" * 64


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Home.at(tmp_path / "home").registry()
    with opened.writing() as session:
        backbones.add(session, {"name": "MiniLM", "dimension": 384, "max_tokens": 256, "source": "test"}, BACKBONE)
        versions.ensure_adapter(session, "desk", BACKBONE)
        datasets.add(session, opened.artifacts, "support", b"text,label\nwords,a\nother words,b\n", "csv")
        jobs.start(session, jobs.enqueue(session, adapter="desk", dataset="support", requested_by="test").id)
    yield opened
    opened.close()


def promotion(
    registry: Registry,
    folder: Path,
    recipe: dict[str, Any],
    *,
    outcome: str = "pass",
    kind: str = "labelled",
    champion: int | None = None,
) -> tuple[dict[str, Any], versions.Version]:
    """Publish a version, run the step on it, twice as after a crash, and give what it wrote."""
    work = WorkFolder(folder / "work")
    work.create()
    with registry.writing() as session:
        (job,) = jobs.unfinished(session)
        version = versions.publish(
            session,
            adapter="desk",
            digest="d" * 64,
            kind="head",
            backbone=BACKBONE,
            reference=None,
            parent=champion,
            job_id=None,
            dataset="support@1",
            metrics={},
            verdict={"outcome": outcome},
            rejected=False,
        )
    work.write_json("version.json", {"number": version.number})
    work.write_json("verdict.json", {"outcome": outcome})
    context: Any = SimpleNamespace(
        folder=work,
        registry=registry,
        recipe=Recipe.from_mapping(recipe),
        job=job,
        snapshot={"champion": None if champion is None else {"number": champion}, "dataset": {"kind": kind}},
    )
    publish.promote(context)
    first = work.read_json("promotion.json")
    publish.promote(context)
    assert work.read_json("promotion.json") == first
    with registry.reading() as session:
        return first, versions.get(session, "desk", version.number)


def test_a_pass_goes_live_and_nothing_else_does(registry: Registry, tmp_path: Path) -> None:
    told, version = promotion(registry, tmp_path, {})
    assert (told["promoted"], version.state) == (True, VersionState.LIVE)
    for more, why in (
        ({"outcome": "inconclusive"}, "the verdict is inconclusive"),
        ({"kind": "unlabelled"}, "without labels or pairs"),
    ):
        told, version = promotion(registry, tmp_path, {}, champion=1, **more)  # type: ignore[arg-type]
        assert (told["promoted"], version.state) == (False, VersionState.CANDIDATE)
        assert why in told["why"]
    told, version = promotion(registry, tmp_path, {"promote": False}, champion=1)
    assert (told["promoted"], version.state) == (False, VersionState.CANDIDATE)
    told, version = promotion(registry, tmp_path, {"gate": {"min_effect": 0.0}}, champion=1)
    assert "laxer than the default in min_effect" in told["why"]


def test_a_recipe_with_a_rollout_puts_a_pass_on_trial(registry: Registry, tmp_path: Path) -> None:
    trial = {"rollout": {"mode": "shadow", "min_observations": 500}}
    told, version = promotion(registry, tmp_path, trial)
    assert (told["promoted"], version.state) == (True, VersionState.LIVE)  # nothing to be compared with
    told, version = promotion(registry, tmp_path, trial, champion=1)
    assert told == {"promoted": False, "why": "the verdict is pass; a rollout decides"}
    assert version.state is VersionState.CANDIDATE
    with registry.reading() as session:
        begun = rollouts.active(session, "desk")
    assert begun is not None
    assert (begun.version, begun.rules["min_observations"]) == (2, 500)
    told, version = promotion(registry, tmp_path, trial, champion=1)
    assert told["why"].startswith("the verdict is pass, but no rollout was begun: ")
