"""Whole jobs on the real backbone with little or no labels: what they report, and what never goes live by itself."""

import csv
import importlib.util
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry import datasets, versions
from registry.home import Home
from registry.jobs import JobState
from registry.registry import Registry
from registry.states import VersionState

_SPEC = importlib.util.spec_from_file_location("worker_jobs", Path(__file__).with_name("test_worker.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
jobs_of: Any = importlib.util.module_from_spec(_SPEC)
sys.modules["worker_jobs"] = jobs_of
_SPEC.loader.exec_module(jobs_of)

QUICK = {"steps": 24, "hidden": 64, "method": "head"}


@pytest.fixture
def registry(small_home: Home, kill_table: Any) -> Iterator[Registry]:
    """The dataset `small`, its texts alone as `texts`, and with some labels doubted as `doubted`."""
    opened = small_home.registry()
    rows = list(csv.DictReader(io.StringIO(kill_table.small_csv().decode(), newline="")))
    texts = "".join(json.dumps({"text": row["text"]}) + "\n" for row in rows)
    doubted = io.StringIO(newline="")
    writer = csv.writer(doubted)
    writer.writerow(["text", "label", "confidence"])
    writer.writerows([row["text"], row["label"], "0.8" if at % 9 == 0 else ""] for at, row in enumerate(rows))
    with opened.writing() as session:
        datasets.add(session, opened.artifacts, "texts", texts.encode(), "jsonl")
        datasets.add(session, opened.artifacts, "doubted", doubted.getvalue().encode(), "csv")
    yield opened
    opened.close()


def test_a_fit_without_labels_is_judged_by_robustness_and_never_goes_live_by_itself(
    small_home: Home, registry: Registry
) -> None:
    recipe = {**QUICK, "gate": {"min_effect": 0.0}}
    with jobs_of.running(small_home):
        job = jobs_of.wait_until(registry, jobs_of.enqueue(registry, "views", recipe, "texts"), jobs_of.finished)
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.verdict is not None
    assert "ndcg_at_10" in job.verdict["metrics"]["means"]["candidate"]
    assert not job.metrics["promotion"]["promoted"]
    with registry.reading() as session:
        assert versions.history(session, "views")[0].state is not VersionState.LIVE


def test_what_was_added_beside_the_labels_is_reported_with_the_score_without_it(
    small_home: Home, registry: Registry
) -> None:
    recipe = {**QUICK, "augment": 0.3, "unlabelled": "texts@1"}
    with jobs_of.running(small_home):
        job = jobs_of.wait_until(registry, jobs_of.enqueue(registry, "few", recipe, "doubted"), jobs_of.finished)
        wrong = jobs_of.enqueue(registry, "wrong", {**QUICK, "unlabelled": "small"})
        refused = jobs_of.wait_until(registry, wrong, jobs_of.finished)
    assert job.state is JobState.SUCCEEDED, job.error
    extra = job.metrics["fit"]["extra"]
    assert set(extra) == {"weak_labels", "augmented"} | (set(extra) & {"pseudo_labels"})
    assert all({"without", "with", "kept"} <= set(told) for told in extra.values())
    assert extra["weak_labels"]["expected_precision"] == pytest.approx(0.8)
    texts = job.metrics["encode"]["extra"]
    # Every one of these texts stands in the dataset, fitted or held out: none is left to guess a label of.
    assert texts["unlabelled"]["near_held_out_or_repeated"] > 0
    assert 0 < texts["wordings"]["made"] <= texts["wordings"]["wanted"]
    assert refused.state is JobState.FAILED
    assert "holds labelled rows" in (refused.error or "")
