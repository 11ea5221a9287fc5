"""`driftline gate` as a user types it, with heads and a LoRA on the real backbone."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from click.testing import Result
from typer.testing import CliRunner

from cli.main import app
from encoder.encoder import Encoder
from encoder.lora import PROBES, WEIGHTS, Lora, weights_bytes
from encoder.lora_manifest import LoraManifest
from encoder.manifest import FileEntry, HeadManifest, Parity
from encoder.probes import Probes
from registry import backbones, datasets, versions
from registry.home import Home
from registry.registry import Registry
from training.data import part
from training.fitted import fitted_bytes
from training.generic import generic_texts
from training.head_export import export_head
from training.served import encode_under
from training.weights import HeadWeights

TICKETS = Path(__file__).resolve().parents[2] / "examples" / "support-desk" / "tickets.jsonl"
ROWS = 200
# Some fifty rows to judge on would leave the gate's own margins open.
LENIENT = {"calibration_margin": 0.2, "robustness_margin": 0.2, "margin": 0.2, "group_margin": 0.5, "min_clusters": 10}


def publish(registry: Registry, adapter: str, manifest: HeadManifest | LoraManifest, *files: bytes) -> None:
    for data in (*files, manifest.to_bytes()):
        registry.store(data)
    with registry.writing() as session:
        versions.ensure_adapter(session, adapter, manifest.backbone)
        versions.publish(
            session, adapter=adapter, digest=manifest.digest, kind=manifest.KIND, backbone=manifest.backbone,
            reference=None, parent=None, job_id=None, dataset="desk@1", metrics={}, verdict=None, rejected=False,
        )  # fmt: skip


def publish_head(registry: Registry, backbone: str, out: np.ndarray, told: dict[str, Any], probes: np.ndarray) -> None:
    """A head that adds `out` times the vector, as a version of `desk`."""
    weights = HeadWeights((out / np.sqrt(len(out))).astype(np.float32), np.zeros(len(out), np.float32))
    inputs = np.ascontiguousarray(probes[:16])
    files = {
        "head.onnx": export_head(weights),
        "probes.safetensors": safetensors.numpy.save({"inputs": inputs, "outputs": weights.apply(inputs)}),
    }
    manifest = HeadManifest(
        backbone=backbone,
        dimension=len(out),
        files={name: FileEntry.of(data) for name, data in files.items()},
        parity=Parity(16, 0.0, 1.0),
        recipe={"method": "head", "seed": 0, "refit": False, "gate": LENIENT},
        dataset=told,
        metrics={},
        parent=None,
        job="job_1",
        versions={},
    )
    publish(registry, "desk", manifest, *files.values())


def publish_lora(registry: Registry, encoder: Encoder) -> None:
    """A LoRA of random weights as a version of `tone`, which says nothing of its data."""
    draw = np.random.default_rng(0)
    a = draw.normal(size=(4, 384), scale=0.05).astype(np.float32)
    b = draw.normal(size=(4, 384), scale=0.1).astype(np.float32)
    texts = ("where is my card", "the parcel came late")

    def made(vectors: np.ndarray) -> tuple[LoraManifest, list[bytes]]:
        files = {
            WEIGHTS: weights_bytes({"encoder.layer.5.attention.self.query": (a, b)}),
            PROBES: Probes(texts, vectors).to_bytes(),
        }
        manifest = LoraManifest(
            backbone=encoder.digest,
            dimension=384,
            rank=4,
            files={name: FileEntry.of(data) for name, data in files.items()},
            parity=Parity(2, 0.0, 1.0),
            recipe={"source": "peft", "rank": 4, "alpha": 8},
            dataset={},
            metrics={},
            parent=None,
            job=None,
            versions={},
        )
        return manifest, [*files.values(), manifest.to_bytes()]

    draft, blobs = made(np.eye(2, 384, dtype=np.float32))
    for data in blobs:
        registry.store(data)
    vectors = encode_under(encoder, Lora.open(draft.digest, registry.fetch), texts)
    manifest, blobs = made(vectors)
    publish(registry, "tone", manifest, *blobs)


@pytest.fixture(autouse=True)
def few_texts_beside_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.evaluation_run.PERTURBED", 20)
    monkeypatch.setattr("training.rejudge.generic_texts", lambda: generic_texts()[:40])


@pytest.fixture(scope="module")
def home(exported_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """`desk@1`, which does next to nothing; `desk@2`, which knows its labels; and `tone@1`, an import."""
    folder = tmp_path_factory.mktemp("gate") / "home"
    shutil.copytree(exported_backbone, folder)
    home = Home.at(folder)
    registry = home.registry()
    lines = TICKETS.read_bytes().splitlines(keepends=True)
    with registry.writing() as session:
        dataset = datasets.add(session, registry.artifacts, "desk", b"".join(lines[:ROWS]), "jsonl")
        datasets.add(session, registry.artifacts, "fresh", b"".join(lines[ROWS : 2 * ROWS]), "jsonl")
        backbone = backbones.default(session)
    assert backbone is not None
    encoder = Encoder.open(backbone.digest, registry.fetch, provider="cpu", precision="fp32", threads=1)
    rows = datasets.load_rows(registry.artifacts, dataset)
    fit = part(rows, 0).fit
    vectors = encoder.encode([row.subject for row in rows]).vectors
    labels = np.array([row.label for row in rows])
    centres = np.stack([vectors[fit][labels[fit] == label].mean(axis=0) for label in sorted(set(labels[fit]))])
    told = {"name": "desk", "revision": dataset.revision, "digest": dataset.digest, "kind": "labelled"}
    told["fitted"] = registry.store(fitted_bytes(rows, fit))
    directions = np.linalg.svd(centres - centres.mean(axis=0), full_matrices=False)[2]
    publish_head(registry, backbone.digest, 0.02 * np.eye(384), told, vectors)
    publish_head(registry, backbone.digest, 2.0 * directions.T @ directions, told, vectors)
    publish_lora(registry, encoder)
    registry.close()
    return home


def driftline(home: Home, *arguments: str) -> Result:
    runtime = ("--provider", "cpu", "--precision", "fp32", "--threads", "1")
    return CliRunner().invoke(app, ["gate", *arguments, *runtime, "--data-dir", str(home.data_dir)])


def test_the_exit_status_is_the_verdict_and_the_reasons_are_a_table(home: Home) -> None:
    done = driftline(home, "desk@2", "desk@1", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["verdict"]["outcome"], told["use"], told["rows"]["left_out"]) == ("pass", 1, 0)
    shown = driftline(home, "desk@1", "desk@2")
    assert shown.exit_code == 1
    said = " ".join(shown.stdout.split())
    assert "desk@1 against desk@2 (the champion below): fail" in said
    judged = told["rows"]["judged"]
    assert f"{judged} rows of desk@1 judged, 0 left out because a version was fitted on them; verdict 2 on" in said
    assert "laxer than the default in margin," in said
    assert "ndcg_at_10 against champion" in said
    assert " yes " in shown.stdout
    assert " no " in shown.stdout


def test_an_import_is_judged_on_rows_that_somebody_vouches_for(home: Home) -> None:
    refused = driftline(home, "tone@1", "base")
    assert refused.exit_code == 1
    assert "tone@1 does not say which rows it was fitted on" in refused.stderr
    assert "--dataset NAME --unseen" in refused.stderr
    assert "--unseen is your word" in driftline(home, "tone@1", "base", "--dataset", "fresh").stderr
    judged = driftline(home, "tone@1", "base", "--dataset", "fresh@1", "--unseen")
    assert judged.exit_code == 1, judged.output
    said = " ".join(judged.stdout.split())
    assert any(f"tone@1 against base: {outcome}" in said for outcome in ("fail", "inconclusive"))
    assert "tone@1 does not say what it was fitted on; that it has not seen these rows is your word" in said
    assert "verdict 1 on these rows" in said


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (("desk", "base"), 2, "which version? give desk@NUMBER"),
        (("desk@2", "desk"), 2, "which version? give desk@NUMBER"),
        (("desk@2", "base", "--unseen"), 2, "--unseen goes with --dataset"),
        (("desk@2", "desk@7"), 1, "there is no version desk@7"),
        (("other@1", "base"), 1, "there is no version other@1"),
        (("No Name", "base"), 1, "a model is a name"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, asked: tuple[str, ...], code: int, words: str) -> None:
    home = Home.at(tmp_path / "home")
    registry = home.registry()
    with registry.writing() as session:
        backbones.add(session, {"name": "tiny", "dimension": 4, "max_tokens": 8, "source": "test"}, "a" * 64)
        versions.ensure_adapter(session, "desk", "a" * 64)
        for _ in range(2):
            versions.publish(
                session, adapter="desk", digest="b" * 64, kind="head", backbone="a" * 64, reference=None, parent=None,
                job_id=None, dataset="desk@1", metrics={}, verdict=None, rejected=False,
            )  # fmt: skip
    registry.close()
    done = driftline(home, *asked)
    assert done.exit_code == code, done.output
    assert words in " ".join(done.stderr.split())
