"""A live version that does not say what it was fitted on: all held-out rows judge, which makes a pass harder."""

from collections.abc import Iterator

import numpy as np
import pytest

from encoder.manifest import FileEntry, HeadManifest, Parity
from monitoring.quality import label_scores
from registry import backbones, datasets, jobs, versions
from registry.home import Home
from registry.registry import Registry
from registry.row import Row
from training.child import FitProcess
from training.data import part
from training.files import WorkFolder
from training.fitted import fitted_by, fitted_bytes
from training.steps import JobContext, Runtime, snapshot

ROWS = [Row(text=f"question {n * n} of topic{n % 4} and thing {n * 7 % 31}", label=f"t{n % 4}") for n in range(240)]
CSV = "text,label\n" + "".join(f"{row.text},{row.label}\n" for row in ROWS)


class Keeper:
    """Nothing is fitted here."""

    def keep(self, process: FitProcess | None) -> None:
        """Nothing to note."""


@pytest.fixture
def registry(tmp_path) -> Iterator[Registry]:
    registry = Home.at(tmp_path / "home").registry()
    yield registry
    registry.close()


def live(registry: Registry, told: dict[str, str]) -> str:
    """Publish and promote a version whose manifest tells this of its dataset."""
    empty = registry.store(b"an artifact that a snapshot does not open")
    entry = FileEntry(empty, len(b"an artifact that a snapshot does not open"))
    manifest = HeadManifest(
        backbone="b" * 64,
        dimension=8,
        files=dict.fromkeys(HeadManifest.FILES, entry),
        parity=Parity(16, 0.0, 1.0),
        recipe={"method": "head"},
        dataset=told,
        metrics={},
        parent=None,
        job="job_1",
        versions={},
    )
    registry.store(manifest.to_bytes())
    with registry.writing() as session:
        datasets.add(session, registry.artifacts, "desk", CSV.encode(), "csv")
        known = {"name": "words", "dimension": 8, "max_tokens": 64, "source": "test"}
        backbones.add(session, known, "b" * 64)
        versions.ensure_adapter(session, "desk", "b" * 64)
        version = versions.publish(
            session, adapter="desk", digest=manifest.digest, kind="head", backbone="b" * 64, reference=None,
            parent=None, job_id=None, dataset="desk@1", metrics={}, verdict=None, rejected=False,
        )  # fmt: skip
        versions.promote(session, "desk", version.number, by="test")
    return manifest.digest


def begun(registry: Registry, tmp_path) -> JobContext:
    with registry.writing() as session:
        job = jobs.enqueue(session, adapter="desk", dataset="desk", recipe={}, requested_by="test")
        job = jobs.start(session, job.id)
    context = JobContext(registry, job, WorkFolder(tmp_path / "work"), Runtime("cpu", "auto", 1), Keeper())
    snapshot(context)
    return context


def test_rows_that_the_live_version_lists_are_set_aside_and_without_a_list_none_is(registry, tmp_path) -> None:
    parts = part(ROWS, seed=0)
    digest = live(registry, {"name": "elsewhere"})
    assert fitted_by(digest, registry.fetch) is None
    context = begun(registry, tmp_path)
    assert np.array_equal(context.parts().judged, parts.gate)
    assert context.snapshot["champion"]["digest"] == digest
    assert context.snapshot["rows"]["set_aside"] == 0


def test_a_live_version_that_lists_them_is_not_judged_on_them(registry, tmp_path) -> None:
    parts = part(ROWS, seed=0)
    seen = parts.gate[:5]
    live(registry, {"name": "elsewhere", "fitted": registry.store(fitted_bytes(ROWS, seen))})
    context = begun(registry, tmp_path)
    assert context.snapshot["rows"]["set_aside"] >= 5
    assert not set(context.parts().judged.tolist()) & set(seen.tolist())


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def ranked(x: np.ndarray, labels: np.ndarray, fitted: np.ndarray, index: np.ndarray, judged: np.ndarray) -> float:
    """Mean nDCG@10 of the judged rows among the index under a head that stretches the fitted rows' class means."""
    means = np.stack([x[fitted][labels[fitted] == label].mean(axis=0) for label in range(6)])
    means -= means.mean(axis=0)
    spread = means.T @ means
    made, names = unit(x + 2 * x @ spread / np.linalg.norm(spread, 2)), [f"l{label}" for label in labels]
    scores = label_scores(made[index], [names[i] for i in index], made[judged], [names[i] for i in judged])
    return float(scores["ndcg_at_10"].mean())


def test_having_seen_the_judged_rows_favours_the_live_version() -> None:
    """Of two live versions made alike of as many rows, the one that saw the judged rows is the harder to beat."""
    gained = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 6, 420)
        x = unit(rng.normal(size=(6, 24))[labels] + 2.0 * rng.normal(size=(420, 24)))
        index, judged, others = np.arange(120), np.arange(120, 270), np.arange(270, 420)
        unseen, seen = (ranked(x, labels, np.append(index, more), index, judged) for more in (others, judged))
        gained.append(seen - unseen)
    assert np.mean(gained) > 0.01
