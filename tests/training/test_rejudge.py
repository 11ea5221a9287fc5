"""The gate asked again about stored versions: on which rows, at which use, and when it is refused.

The backbone here is a bag of words whose topic words lie in six directions of their own, so that a head that stretches
those six is better, by as much as it stretches them, and leaves every other text alone.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
import safetensors.numpy

from encoder.errors import ArtifactRefused
from encoder.lora_manifest import LoraManifest
from encoder.manifest import FileEntry, HeadManifest, Parity
from monitoring.gate import Outcome
from registry import backbones, datasets, versions
from registry.clusters import clusters_of
from registry.home import Home
from registry.near import near_duplicate_groups
from registry.registry import Registry
from registry.row import Row
from registry.tables import EventRecord
from registry.versions import Version
from training.data import part
from training.errors import DataRefused
from training.fitted import fitted_bytes
from training.head_export import export_head
from training.rejudge import Question, Rejudged, rejudge
from training.weights import HeadWeights

BACKBONE, OTHER = "b" * 64, "c" * 64
TOPICS, DIMENSION = 6, 32
TOPIC_WORDS = [f"topic{number}" for number in range(TOPICS)]
# Sixty rows to judge on are few: the gate's own margins would leave everything open.
LENIENT = {"calibration_margin": 0.2, "robustness_margin": 0.2, "margin": 0.2}


def word_vector(word: str) -> np.ndarray:
    """Topic words in the first directions, all others in the rest."""
    vector = np.zeros(DIMENSION)
    if word in TOPIC_WORDS:
        vector[TOPIC_WORDS.index(word)] = 1.0
    else:
        vector[TOPICS:] = np.random.default_rng(zlib.crc32(word.encode())).normal(size=DIMENSION - TOPICS) / 5
    return vector


class Words:
    """Stands in for the loaded backbone."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def encode(self, texts: Sequence[str], *, truncate: bool) -> Any:
        self.asked.append(len(texts))
        found = np.stack(
            [sum((word_vector(word) for word in text.split()), np.full(DIMENSION, 1e-3)) for text in texts]
        )
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return SimpleNamespace(vectors=found.astype(np.float32))


def made_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Labelled texts of a topic word among fillers; every row has other fillers."""
    draw = np.random.default_rng(seed)
    rows = []
    for at in range(count):
        words = [f"w{seed}x{number}" for number in draw.integers(0, 3000, 9)]
        words.insert(int(draw.integers(0, 9)), f"topic{at % TOPICS}")
        rows.append({"text": " ".join(words), "label": f"label {at % TOPICS}"})
    return rows


@dataclass
class Shelf:
    """A registry and what it takes to put versions into it without a fit."""

    registry: Registry

    def add(self, name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Enter a dataset and say how a manifest names it."""
        data = b"\n".join(orjson.dumps(row) for row in rows)
        with self.registry.writing() as session:
            found = datasets.add(session, self.registry.artifacts, name, data, "jsonl")
        return {"name": found.name, "revision": found.revision, "digest": found.digest, "kind": str(found.kind)}

    def rows(self, name: str) -> list[Row]:
        with self.registry.reading() as session:
            return datasets.load_rows(self.registry.artifacts, datasets.get(session, name))

    def version(
        self,
        stretch: float,
        dataset: dict[str, Any],
        *,
        seed: int = 0,
        fitted: Sequence[Row] | None = None,
        adapter: str = "desk",
        backbone: str = BACKBONE,
        gate: dict[str, Any] | None = None,
    ) -> Version:
        """Publish a head that stretches the topics; fitted on the rows of its seed's fit unless others are named."""
        if "name" in dataset and "fitted" not in dataset:
            rows = self.rows(dataset["name"]) if fitted is None else list(fitted)
            at = part(rows, seed).fit if fitted is None else np.arange(len(rows))
            dataset = dataset | {"fitted": self.registry.store(fitted_bytes(rows, at))}
        out = np.zeros((DIMENSION, DIMENSION), np.float32)
        out[range(TOPICS), range(TOPICS)] = stretch / np.sqrt(DIMENSION)
        weights = HeadWeights(out, np.zeros(DIMENSION, np.float32))
        inputs = Words().encode([f"probe {at} topic{at % TOPICS}" for at in range(16)], truncate=True).vectors
        probes = {"inputs": inputs, "outputs": weights.apply(inputs)}
        files = {"head.onnx": export_head(weights), "probes.safetensors": safetensors.numpy.save(probes)}
        manifest = HeadManifest(
            backbone=backbone,
            dimension=DIMENSION,
            files={name: FileEntry.of(data) for name, data in files.items()},
            parity=Parity(16, 0.0, 1.0),
            recipe={"method": "head", "seed": seed, "refit": False, "gate": gate or LENIENT, "steps": 400},
            dataset={name: value for name, value in dataset.items() if value is not None},
            metrics={},
            parent=None,
            job=f"job_{stretch}",
            versions={},
        )
        for data in (*files.values(), manifest.to_bytes()):
            self.registry.store(data)
        return self.publish(manifest, adapter)

    def publish(self, manifest: HeadManifest | LoraManifest, adapter: str) -> Version:
        with self.registry.writing() as session:
            versions.ensure_adapter(session, adapter, manifest.backbone)
            return versions.publish(
                session, adapter=adapter, digest=manifest.digest, kind=manifest.KIND, backbone=manifest.backbone,
                reference=None, parent=None, job_id=None, dataset="desk@1", metrics={}, verdict=None, rejected=False,
            )  # fmt: skip

    def ask(self, candidate: Version, rival: Version | None, **more: Any) -> Rejudged:
        question = Question.of(self.registry, candidate, rival, **more)
        words: Any = Words()
        return rejudge(self.registry, question, words, by="test", tell=lambda share, words: None)

    def events(self) -> int:
        with self.registry.reading() as session:
            return session.query(EventRecord).count()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    registry = Home.at(tmp_path / "home").registry()
    with registry.writing() as session:
        for name, digest in (("words", BACKBONE), ("other", OTHER)):
            manifest = {"name": name, "dimension": DIMENSION, "max_tokens": 64, "source": "test"}
            backbones.add(session, manifest, digest)
    yield Shelf(registry)
    registry.close()


def judged_texts(question: Question) -> set[str]:
    return {question.ground.rows[at].subject for at in question.ground.parts.judged}


def test_a_better_version_passes_a_worse_one_does_not_and_only_the_use_is_kept(shelf: Shelf) -> None:
    told = shelf.add("desk", made_rows(420))
    weak, strong = shelf.version(0.3, told), shelf.version(4.0, told)
    before = shelf.events()
    found = shelf.ask(strong, weak)
    assert found.verdict.outcome is Outcome.PASS, [reason.text for reason in found.verdict.reasons if not reason.ok]
    assert set(found.verdict.metrics["means"]) == {"candidate", "champion", "base"}
    assert (found.use, shelf.events()) == (1, before + 1)
    document = orjson.loads(orjson.dumps(found.to_json()))
    assert (document["candidate"], document["rival"], document["use"]) == ("desk@2", "desk@1", 1)
    assert document["laxer_than_default"] == ["margin", "robustness_margin", "calibration_margin"]

    # The parts are those of the fit, and so are the rows.
    rows = shelf.rows("desk")
    parts = part(rows, 0)
    assert judged_texts(found.question) == {rows[at].subject for at in parts.gate}
    assert document["rows"] == {"judged": len(parts.gate), "left_out": 0, "dataset": 420}

    again = shelf.ask(strong, weak)
    assert (again.use, again.verdict, shelf.events()) == (1, found.verdict, before + 1)
    against_base = shelf.ask(strong, None)
    assert (against_base.use, against_base.verdict.outcome) == (2, Outcome.PASS)
    assert set(against_base.verdict.metrics["means"]) == {"candidate", "base"}
    worse = shelf.ask(weak, strong)
    assert (worse.use, worse.verdict.outcome) == (3, Outcome.FAIL)
    with shelf.registry.reading() as session:
        assert {version.state.value for version in versions.history(session, "desk")} == {"candidate"}


def test_no_row_is_judged_that_either_was_fitted_on_whatever_its_seed_and_dataset(shelf: Shelf) -> None:
    data = made_rows(420)
    told = shelf.add("desk", data)
    candidate, dealt_afresh = shelf.version(4.0, told), shelf.version(0.3, told, seed=9)
    question = Question.of(shelf.registry, candidate, dealt_afresh)
    rows = shelf.rows("desk")
    fitted = {rows[at].subject for seed in (0, 9) for at in part(rows, seed).fit}
    assert judged_texts(question)
    assert not judged_texts(question) & fitted
    gate = part(rows, 0).gate
    assert question.ground.left_out == len(gate) - len(question.ground.parts.judged) > len(gate) / 3

    # Another dataset's rows are known by their words, however they are written there.
    spoilt = [Row(text=f" {rows[at].subject.upper()}!", label="else") for at in gate[:20]]
    elsewhere = shelf.version(0.5, shelf.add("else", made_rows(60, seed=5)), fitted=spoilt)
    question = Question.of(shelf.registry, candidate, elsewhere)
    assert not judged_texts(question) & {rows[at].subject for at in gate[:20]}
    assert question.ground.left_out >= 20

    everything = shelf.version(0.6, shelf.add("else", made_rows(60, seed=5)), fitted=rows)
    before = shelf.events()
    with pytest.raises(DataRefused, match="fitted on every row of desk@1 that could be judged"):
        shelf.ask(candidate, everything)
    assert shelf.events() == before


def test_a_named_dataset_is_judged_by_its_own_rows_less_those_seen(shelf: Shelf) -> None:
    data, fresh = made_rows(420), made_rows(240, seed=7)
    told = shelf.add("desk", data)
    weak, strong = shelf.version(0.3, told), shelf.version(4.0, told)
    shelf.add("fresh", fresh)
    found = shelf.ask(strong, weak, dataset=("fresh", None))
    assert found.verdict.outcome is Outcome.PASS, [reason.text for reason in found.verdict.reasons if not reason.ok]
    ground = found.question.ground
    assert (ground.left_out, len(ground.seen)) == (0, 0)
    assert 100 <= len(ground.parts.judged) <= 140
    clusters = clusters_of(ground.rows, near_duplicate_groups([row.subject for row in ground.rows]))
    kept_apart = [
        set(clusters[part_].tolist()) for part_ in (ground.parts.fit, ground.parts.select, ground.parts.judged)
    ]
    assert not kept_apart[0] & kept_apart[2]
    assert not kept_apart[1] & kept_apart[2]
    assert not kept_apart[0] & kept_apart[1]

    # Rows that were fitted on are neighbours there, and never judged.
    rows = shelf.rows("desk")
    fitted = {rows[at].subject for at in part(rows, 0).fit}
    grown = shelf.add("grown", [*data, *fresh])
    mixed = Question.of(shelf.registry, strong, weak, dataset=("grown", grown["revision"]))
    judged = judged_texts(mixed)
    assert not judged & fitted
    assert judged & {row["text"] for row in fresh}
    assert mixed.ground.left_out > 0
    assert {mixed.ground.rows[at].subject for at in mixed.ground.seen} >= fitted
    asked = mixed.ground.parts
    assert not set(asked.fit.tolist()) & {*asked.select.tolist(), *asked.judged.tolist()}


def test_pairs_are_judged_on_four_in_five_rows(shelf: Shelf) -> None:
    told = shelf.add("desk", made_rows(120))
    candidate = shelf.version(3.0, told, gate={**LENIENT, "primary": "knn_accuracy"})
    plain = shelf.version(3.0, told)
    words = made_rows(150, seed=8)
    pairs = [
        {"anchor": row["text"], "positive": f"answer {at} {row['text'][:20]} z{at}"} for at, row in enumerate(words)
    ]
    shelf.add("pages", pairs)
    found = shelf.ask(plain, None, dataset=("pages", 1))
    assert len(found.question.ground.parts.judged) >= 0.7 * 150
    before = shelf.events()
    with pytest.raises(DataRefused, match="judged by knn_accuracy, which is not measured on pairs rows"):
        shelf.ask(candidate, None, dataset=("pages", 1))
    assert shelf.events() == before


def test_a_version_that_does_not_say_what_it_was_fitted_on_is_judged_on_nobodys_guess(shelf: Shelf) -> None:
    told = shelf.add("desk", made_rows(420))
    shelf.add("fresh", made_rows(240, seed=7))
    known = shelf.version(0.3, told)
    imported = shelf.version(4.0, {}, adapter="imported")
    old = shelf.version(3.0, told | {"fitted": None}, adapter="old")
    for asked in ((imported, None), (known, imported), (old, known)):
        with pytest.raises(DataRefused, match=r"does not say which rows it was fitted on.*--dataset NAME --unseen"):
            Question.of(shelf.registry, *asked)
        with pytest.raises(DataRefused, match="--unseen is your word"):
            Question.of(shelf.registry, *asked, dataset=("fresh", None))
    with pytest.raises(DataRefused, match="old@1 was fitted on desk, without saying on which rows"):
        Question.of(shelf.registry, old, known, dataset=("desk", None), unseen=True)
    found = shelf.ask(imported, known, dataset=("fresh", None), unseen=True)
    assert found.question.ground.vouched == ("imported@1",)
    assert found.question.recipe.seed == 0
    assert found.to_json()["vouched_unseen"] == ["imported@1"]


def test_what_cannot_be_compared_is_refused(shelf: Shelf) -> None:
    told = shelf.add("desk", made_rows(420))
    candidate = shelf.version(4.0, told)
    with pytest.raises(DataRefused, match="one and the same"):
        Question.of(shelf.registry, candidate, candidate)
    foreign = shelf.version(0.3, told, adapter="foreign", backbone=OTHER)
    with pytest.raises(DataRefused, match="stand on different backbones"):
        Question.of(shelf.registry, candidate, foreign)
    moved = shelf.version(0.3, told | {"digest": "0" * 64})
    with pytest.raises(DataRefused, match="fitted on other rows than desk@1 has in this registry"):
        Question.of(shelf.registry, moved, candidate)
    unread = shelf.version(0.4, told | {"fitted": shelf.registry.store(b"no list")})
    with pytest.raises(DataRefused, match=f"that {unread.name} was fitted on cannot be read"):
        Question.of(shelf.registry, candidate, unread)
    sure = [row | {"label": "same"} for row in made_rows(60, seed=3)]
    doubted: list[Any] = [row | {"confidence": 0.6} for row in made_rows(30, seed=6)]
    shelf.add("one", [*sure, *doubted])
    with pytest.raises(DataRefused, match="single label"):
        Question.of(shelf.registry, candidate, None, dataset=("one", None))
    shelf.add("tiny", made_rows(8, seed=4))
    with pytest.raises(DataRefused, match="tiny@1 is too small"):
        Question.of(shelf.registry, candidate, None, dataset=("tiny", None))
    with shelf.registry.writing() as session:
        liar = versions.publish(
            session, adapter="foreign", digest=candidate.digest, kind="head", backbone=OTHER, reference=None,
            parent=None, job_id=None, dataset="desk@1", metrics={}, verdict=None, rejected=False,
        )  # fmt: skip
    with pytest.raises(ArtifactRefused, match="another backbone than the registry says"):
        Question.of(shelf.registry, liar, None)


def test_the_backbone_encodes_each_text_once_for_all_heads(shelf: Shelf) -> None:
    told = shelf.add("desk", made_rows(420))
    question = Question.of(shelf.registry, shelf.version(4.0, told), shelf.version(0.3, told))
    words: Any = Words()
    shares: list[tuple[float, str]] = []
    rejudge(shelf.registry, question, words, by="test", tell=lambda share, said: shares.append((share, said)))
    texts = len(question.ground.corpus.texts) + 240
    perturbed = sum(words.asked) - texts
    assert words.asked[:2] == [512, texts - 512]
    assert 0 < perturbed <= 1_500 + len(question.ground.parts.judged)
    assert {said for _, said in shares} >= {"encoding with the backbone", "scoring candidate", "scoring champion"}
    assert all(0 <= share <= 1 for share, _ in shares)


def test_texts_alone_are_judged_as_a_retrain_judges_them(shelf: Shelf) -> None:
    told = shelf.add("desk", [{"text": row["text"]} for row in made_rows(150)])
    found = shelf.ask(shelf.version(3.0, told), None)
    ground = found.question.ground
    assert ground.corpus.views
    assert np.array_equal(ground.parts.judged, part(ground.rows, 0).gate)
    assert found.to_json()["dataset"]["kind"] == "unlabelled"
