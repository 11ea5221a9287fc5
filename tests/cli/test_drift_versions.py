"""`driftline drift versions`, `rebuild` and `advice` as a user types them, on the real backbone."""

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
from encoder.manifest import FileEntry, HeadManifest, Parity
from monitoring.reference import Reference
from monitoring.versions_drift import MEASURES
from registry import backbones, datasets, readings, versions
from registry.home import Home
from training.data import part
from training.fitted import fitted_bytes
from training.head_export import export_head
from training.weights import HeadWeights

TICKETS = Path(__file__).resolve().parents[2] / "examples" / "support-desk" / "tickets.jsonl"
ROWS = 260
EXACT = ("--provider", "cpu", "--precision", "fp32", "--threads", "2")


@pytest.fixture(scope="module")
def folder(exported_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two heads of `desk`, the second one live."""
    folder = tmp_path_factory.mktemp("versions") / "home"
    shutil.copytree(exported_backbone, folder)
    registry = Home.at(folder).registry()
    lines = TICKETS.read_bytes().splitlines(keepends=True)[:ROWS]
    with registry.writing() as session:
        found = datasets.add(session, registry.artifacts, "desk", b"".join(lines), "jsonl")
        newer = b"".join(
            json.dumps({"text": f"where is museum number {n} of the city"}).encode() + b"\n" for n in range(30)
        )
        newer += b"".join(json.dumps({"text": f"opening hours {n} of the {what}"}).encode() + b"\n"
                          for n in range(40) for what in ("zoo", "tower", "castle"))  # fmt: skip
        datasets.add(session, registry.artifacts, "newer", newer, "jsonl")
        backbone = backbones.default(session)
    assert backbone is not None
    rows = datasets.load_rows(registry.artifacts, found)
    encoder = Encoder.open(backbone.digest, registry.fetch, provider="cpu", precision="fp32", threads=2, streams=1)
    probes = encoder.encode([row.subject for row in rows[:16]]).vectors
    fitted = registry.store(fitted_bytes(rows, part(rows, 0).fit))
    told = {"name": "desk", "revision": 1, "digest": found.digest, "kind": "labelled", "fitted": fitted}
    for number, strength in enumerate((0.002, 0.05)):
        out = np.random.default_rng(number).normal(0, strength, (backbone.dimension,) * 2) / backbone.dimension**0.5
        weights = HeadWeights(out.astype(np.float32), np.zeros(backbone.dimension, np.float32))
        files = {
            "head.onnx": export_head(weights),
            "probes.safetensors": safetensors.numpy.save({"inputs": probes, "outputs": weights.apply(probes)}),
        }
        manifest = HeadManifest(
            backbone=backbone.digest, dimension=backbone.dimension,
            files={name: FileEntry.of(data) for name, data in files.items()}, parity=Parity(16, 0.0, 1.0),
            recipe={"method": "head", "seed": 0, "refit": False}, dataset=told, metrics={}, parent=None, job="job_1",
            versions={},
        )  # fmt: skip
        for data in (*files.values(), manifest.to_bytes()):
            registry.store(data)
        with registry.writing() as session:
            versions.ensure_adapter(session, "desk", backbone.digest)
            version = versions.publish(
                session, adapter="desk", digest=manifest.digest, kind="head", backbone=backbone.digest, reference=None,
                parent=None, job_id=None, dataset="desk@1", metrics={}, verdict=None, rejected=False,
            )  # fmt: skip
            versions.promote(session, "desk", version.number, by="test")
    registry.close()
    return folder


def call(folder: Path, *words: str, code: int = 0) -> Result:
    found = CliRunner().invoke(app, ["drift", *words, "--data-dir", str(folder)])
    assert found.exit_code == code, found.output
    return found


def told(folder: Path, *words: str) -> Any:
    return json.loads(call(folder, *words, "--json").stdout)


def test_versions_are_compared_on_frozen_probes(folder: Path) -> None:
    found = told(folder, "versions", "desk@1", "desk@2", *EXACT)
    assert (found["old"], found["new"], found["dataset"]["name"]) == ("desk@1", "desk@2", "desk")
    assert list(found["measures"]) == [m for m in MEASURES if found["rows"] >= 200 or m not in ("jaccard_at_50", "rbo")]
    assert found["probes"] + found["rows"] <= ROWS
    # A head that moves vectors little keeps more of the backbone's neighbours than one that moves them far.
    near = told(folder, "versions", "all-MiniLM-L6-v2", "desk@1", *EXACT)["measures"]
    far = told(folder, "versions", "all-MiniLM-L6-v2", "desk", *EXACT)["measures"]
    for measure in ("jaccard_at_10", "procrustes_r2", "mixed_recall_at_10"):
        assert near[measure]["mean"] > far[measure]["mean"] + 0.05, (measure, near, far)
    shown = call(folder, "versions", "desk@1", "desk@2", *EXACT).stdout
    assert "Jaccard@10" in shown
    assert found["words"].split(":")[0] in " ".join(shown.split())


def test_what_cannot_be_compared_is_refused(folder: Path) -> None:
    assert "one and the same" in call(folder, "versions", "desk@2", "desk", *EXACT, code=1).output
    assert "no version desk@7" in call(folder, "versions", "desk@7", "desk", *EXACT, code=1).output.replace("\n", " ")
    assert "greater than or equal to 40" in call(folder, "versions", "desk@1", "desk", "--rows", "39", code=2).output


def test_the_reference_of_the_live_version_is_rebuilt(folder: Path) -> None:
    assert told(folder, "advice", "desk")["action"] == "rebuild_reference"
    found = told(folder, "rebuild", "desk", *EXACT)
    assert (found["version"], found["number"], found["before"]) == ("desk@2", 1, None)
    assert "exactly this reference already" in " ".join(call(folder, "rebuild", "desk", *EXACT, code=1).output.split())
    assert "goes with --newer" in call(folder, "rebuild", "desk", "--unseen", code=2).output
    again = told(folder, "rebuild", "desk", "--newer", "newer", *EXACT)
    assert (again["number"], again["before"], again["newer"]["name"]) == (2, found["reference"], "newer")
    assert again["calibrated"]
    registry = Home.at(folder).registry()
    with registry.writing() as session:
        live = versions.live(session, "desk")
        assert live is not None
        assert live.reference == again["reference"]
        readings.put_state(session, "desk", 2, state={"alarm": None}, alarm_active=True)
    assert Reference.from_bytes(registry.fetch(again["reference"])).n_cal == again["calibration"]
    registry.close()
    # An alarm of which nothing can be read calls for action all the same.
    advised = told(folder, "advice", "desk")
    assert (advised["action"], advised["reasons"][0]["code"]) == ("retrain", "novel_texts")
    assert "retrain" in call(folder, "advice", "desk").stdout
    assert "no adapter" in call(folder, "advice", "nothing", code=1).output
