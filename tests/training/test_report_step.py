"""The step `report`: what it leaves in the work folder after a real gate, and that no failure of its own ends a job."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from registry import jobs
from registry.home import Home
from training import artifact, fit_step, judge, report_step, steps
from training.errors import JobCancelled
from training.files import WorkFolder
from training.report.schema import CARD_SCHEMA
from training.report_step import CARD, CURVES, REPORT, report, report_files
from training.steps import JobContext, Runtime

QUICK = {"steps": 12, "batch_size": 64, "hidden": 32, "lora_budget_s": 0}


class Keeper:
    def keep(self, process: Any) -> None:
        """Nothing ends it."""


def judged(home: Home, folder: Path, until: str = "gate") -> JobContext:
    """A job of the dataset `small`, run up to the verdict."""
    registry = home.registry()
    with registry.writing() as session:
        job = jobs.enqueue(session, adapter="support", dataset="small", recipe=QUICK, requested_by="test")
        job = jobs.start(session, job.id)
    context = JobContext(registry, job, WorkFolder(folder), Runtime("cpu", "fp32", 2), Keeper())
    for name, step in (
        ("snapshot", steps.snapshot), ("encode", steps.encode), ("fit", fit_step.fit), ("export", artifact.export),
        ("check", artifact.check), ("evaluate", judge.evaluate), ("gate", judge.gate),
    ):  # fmt: skip
        step(context)
        if name == until:
            break
    return context


def test_a_judged_job_gets_its_report(small_home: Home, tmp_path: Path) -> None:
    context = judged(small_home, tmp_path / "work")
    report(context)
    files = report_files(context)
    assert files.keys() == {REPORT, CARD, CURVES}
    card = json.loads(files[CARD])
    jsonschema.validate(card, CARD_SCHEMA)
    corpus = context.corpus()
    assert not any(text in files[CARD].decode() for text in corpus.texts)
    page = files[REPORT].decode()
    worst = card_evaluation(context)["errors"]["candidate"]["examples"][0]["row"]
    assert corpus.texts[corpus.subject[worst - 1]][:60].split("'")[0] in page
    verdict = context.folder.read_json("verdict.json")
    assert card["verdict"] == verdict
    assert verdict["outcome"] in page
    assert card["lineage"]["job"] == context.job.id
    assert card["fit"]["curves"]["step"][0] == 0
    assert files[CURVES].startswith(b"\x89PNG")
    report(context)
    assert report_files(context) == files
    with context.registry.reading() as session:
        told = jobs.get(session, context.job.id)
    assert told.step == "report"
    assert told.metrics["curves"]["step"] == card["fit"]["curves"]["step"]
    context.registry.close()


def card_evaluation(context: JobContext) -> Any:
    return context.folder.read_json("evaluation.json")


def secret() -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise ValueError("a text of the dataset")

    return fail


def test_what_goes_wrong_is_logged_by_its_type_and_ends_nothing(
    small_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    context = judged(small_home, tmp_path / "work", until="snapshot")
    monkeypatch.setattr(report_step, "gather", secret())
    report(context)
    assert report_files(context) == {}
    out = capsys.readouterr()
    assert "ValueError" in out.out + out.err
    assert "a text of the dataset" not in out.out + out.err
    with context.registry.reading() as session:
        events = jobs.events(session, context.job.id)
    assert "could not be made" in events[-1].data["message"]
    assert "a text of the dataset" not in str([event.data for event in events])
    context.registry.close()


def test_a_cancelled_job_ends_in_its_report(small_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = judged(small_home, tmp_path / "work", until="snapshot")

    def cancelled(*_: object) -> Any:
        raise JobCancelled("the job was cancelled on request")

    monkeypatch.setattr(report_step, "gather", cancelled)
    with pytest.raises(JobCancelled):
        report(context)
    context.registry.close()
