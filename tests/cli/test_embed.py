"""`driftline embed` and `driftline reproject` as a user types them, on a home with the real backbone and two heads."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from encoder.encoder import Encoder
from encoder.manifest import FileEntry, HeadManifest, Parity
from registry import backbones, versions
from registry.home import Home
from training.head_export import export_head
from training.weights import HeadWeights

COMMAND = [sys.executable, "-m", "cli"]
Runs = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def home(exported_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """`desk@1` and `desk@2` are heads, none of them live; `inner@1` is a LoRA version in name only."""
    folder = tmp_path_factory.mktemp("bulk-home") / "home"
    shutil.copytree(exported_backbone, folder)
    home = Home.at(folder)
    registry = home.registry()
    with registry.reading() as session:
        backbone = backbones.default(session)
    assert backbone is not None
    encoder = Encoder.open(backbone.digest, registry.fetch, provider="cpu")
    base = encoder.encode(["where is my card", "a lost parcel", "cancel the flight"]).vectors
    for adapter, kind, seed in (("desk", "head", 1), ("desk", "head", 2), ("inner", "lora", 3)):
        outer = np.random.default_rng(seed).normal(0, 0.02, (384, 384)).astype(np.float32)
        weights = HeadWeights(outer, np.zeros(384, np.float32), None, None)
        probes = safetensors.numpy.save({"inputs": base, "outputs": weights.apply(base)})
        files = {"head.onnx": export_head(weights), "probes.safetensors": probes}
        manifest = HeadManifest(
            backbone=backbone.digest,
            dimension=384,
            files={name: FileEntry.of(data) for name, data in files.items()},
            parity=Parity(3, 0.0, 1.0),
            recipe={},
            dataset={},
            metrics={},
            parent=None,
            job=f"test-{seed}",
            versions={},
        )
        digest = [registry.store(data) for data in (*files.values(), manifest.to_bytes())][-1]
        with registry.writing() as session:
            versions.ensure_adapter(session, adapter, backbone.digest)
            versions.publish(
                session,
                adapter=adapter,
                digest=digest,
                kind=kind,
                backbone=backbone.digest,
                reference=None,
                parent=None,
                job_id=None,
                dataset="test@1",
                metrics={},
                verdict=None,
                rejected=False,
            )
    registry.close()
    return home


@pytest.fixture
def run(home: Home, tmp_path: Path) -> Runs:
    def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, *arguments, "--data-dir", str(home.data_dir)]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)

    return ran


def test_a_file_is_embedded_and_moved_to_another_version(run: Runs, tmp_path: Path) -> None:
    lines = [{"text": f"where is parcel number {i}", "id": f"p{i}"} for i in range(120)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = run(
        "embed", "in.jsonl", "--out", "one.parquet", "--model", "desk@1", "--id-column", "id", "--provider", "cpu"
    )
    assert made.returncode == 0, made.stderr
    assert "Embedded 120 of 120 rows with desk@1 (cpu, fp32)" in made.stdout
    again = run("embed", "in.jsonl", "--out", "one.parquet", "--model", "desk@1", "--id-column", "id", "--json")
    assert json.loads(again.stdout)["already_done"] is True
    other = run("embed", "in.jsonl", "--out", "one.parquet", "--model", "desk@1", "--id-column", "id",
                "--provider", "openvino")  # fmt: skip
    assert other.returncode == 1
    assert "made on cpu in fp32; --overwrite" in other.stderr
    moved = run("reproject", "one.parquet", "--model", "desk@2", "--out", "two.parquet", "--json")
    assert moved.returncode == 0, moved.stderr
    summary = json.loads(moved.stdout)
    assert (summary["rows"], summary["from"], summary["model"]) == (120, "desk@1", "desk@2")
    direct = run("embed", "in.jsonl", "--out", "direct.parquet", "--model", "desk@2", "--id-column", "id",
                 "--provider", "cpu", "--json")  # fmt: skip
    assert json.loads(direct.stdout)["embedded"] == 120
    found, wanted = (pq.read_table(tmp_path / name) for name in ("two.parquet", "direct.parquet"))
    assert found["id"].to_pylist() == [line["id"] for line in lines]
    difference = np.array(found["embedding"].to_pylist()) - np.array(wanted["embedding"].to_pylist())
    assert np.abs(difference).max() < 1e-5
    shown = run("reproject", "one.parquet", "--model", "desk@2", "--out", "two.parquet", "--overwrite")
    assert "Moved 120 rows from desk@1 to desk@2" in shown.stdout


def test_bad_rows_are_named_by_row_and_never_by_text(run: Runs, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("body,n\nfine,1\n  ,2\nSECRET,3,4\nfine too,5\n")
    refused = run("embed", "in.csv", "--out", "out.parquet", "--text-column", "body", "--provider", "cpu")
    assert refused.returncode == 1
    assert "row 2 (line 3) has an empty text; row 3 (line 4) has 3 fields" in refused.stderr
    assert "--on-error skip" in refused.stderr
    assert "SECRET" not in refused.stderr + refused.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv"]
    skipped = run("embed", "in.csv", "--out", "out.parquet", "--text-column", "body", "--keep", "n",
                  "--on-error", "skip", "--provider", "cpu", "--json")  # fmt: skip
    summary = json.loads(skipped.stdout)
    assert (summary["embedded"], summary["left_out"]) == (2, 2)
    assert [bad["row"] for bad in summary["bad_rows"]] == [2, 3]
    assert pq.read_table(tmp_path / "out.parquet")["n"].to_pylist() == ["1", "5"]


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("embed", "in.jsonl", "--out", "o.parquet", "--keep", "a", "--keep-all"), 2, "not both"),
        (("embed", "in.jsonl", "--out", "o.parquet", "--keep", "a"), 1, "no row has a field a"),
        (("embed", "in.jsonl", "--out", "o.parquet", "--model", "nobody"), 1, "no adapter nobody"),
        (("embed", "in.jsonl", "--out", "o.parquet", "--model", "desk"), 1, "nothing of desk is live"),
        (("embed", "in.jsonl", "--out", "no/o.parquet"), 1, "a folder that exists"),
        (("embed", "in.jsonl", "--out", "o.parquet", "--provider", "nothing"), 1, "not a known provider"),
        (("reproject", "in.jsonl", "--model", "desk@1", "--out", "o.parquet"), 1, "cannot be read as Parquet"),
        (("reproject", "in.jsonl", "--model", "inner@1", "--out", "o.parquet"), 1, "encode the texts again"),
        (("reproject", "in.jsonl", "--model", "all-MiniLM-L6-v2", "--out", "o.parquet"), 1, "is a backbone"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    run: Runs, tmp_path: Path, arguments: tuple[str, ...], code: int, why: str
) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "fine"}\n')
    refused = run(*arguments)
    assert refused.returncode == code, refused.stderr
    assert why in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "o.parquet").exists()
    assert not (tmp_path / "o.parquet.parts").exists()


def test_without_pyarrow_the_extra_is_named(run: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError\n")
    (tmp_path / "in.jsonl").write_text('{"text": "fine"}\n')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for arguments in (("embed", "in.jsonl"), ("reproject", "in.jsonl", "--model", "desk@1")):
        refused = run(*arguments, "--out", "o.parquet")
        assert refused.returncode == 1
        assert "pip install 'driftline[bulk]'" in refused.stderr


def test_an_interrupt_keeps_what_is_done(home: Home, run: Runs, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(f'{{"text": "a text {i}"}}\n' for i in range(60_000)))
    arguments = ("embed", "in.jsonl", "--out", "o.parquet", "--provider", "cpu")
    command = [*COMMAND, *arguments, "--data-dir", str(home.data_dir)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "o.parquet.parts" / "state.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=180)
    assert process.returncode == 130, told
    assert "the same command goes on from there" in told
    other = run(*arguments, "--keep", "text")
    assert "other options (keep)" in other.stderr
