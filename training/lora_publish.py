"""A fitted LoRA adapter as a version's artifact: stored as PEFT stores it, read back, and proven like an import."""

import json
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch

from encoder.lora_manifest import LoraManifest
from encoder.manifest import BackboneManifest, Fetch, Store, load_manifest_bytes
from training.files import WorkFolder
from training.lora_fit import FittedLora
from training.lora_proof import Notes, Progress, publish_proven
from training.peft_folder import CONFIG, TENSORS, LoraRefused, read_folder
from training.sources import Source

# What a manifest keeps of a fit's report: nothing that differs between two runs of the same work.
_KEPT = ("base_score", "select_score", "alpha", "best_step", "steps_run", "stopped", "temperature", "precision")


def write_folder(fitted: FittedLora, folder: Path) -> None:
    """Write a fitted adapter as a PEFT folder: `adapter_model.safetensors`, then `adapter_config.json`."""
    files = WorkFolder(folder)
    files.create()
    files.write(TENSORS, safetensors.torch.save({name: tensor.contiguous() for name, tensor in fitted.tensors.items()}))
    files.write(CONFIG, json.dumps(fitted.config, sort_keys=True).encode())


def publish_lora(
    fitted: FittedLora,
    source: Source,
    backbone: str,
    fetch: Fetch,
    store: Store,
    *,
    dataset: dict[str, Any],
    metrics: dict[str, Any] | None = None,
    parent: str | None = None,
    job: str | None = None,
    progress: Progress | None = None,
) -> LoraManifest:
    """Store a fitted adapter, read it back, prove it and publish it.

    Three computations must agree: the fitted model in torch, PEFT on the pretrained model with what was read back, and
    the backbone's graph with the adapter's branches.

    Args:
        fitted: The outcome of a fit.
        source: The pretrained model it was fitted on.
        backbone: Digest of the manifest of the backbone that was exported from it.
        fetch, store: Read and keep bytes by their digest. The manifest is stored last.
        dataset: What it was fitted on.
        metrics: Figures beside those of the fit, such as those of an evaluation.
        parent: Digest of the version that is live now, if any.
        job: The job that fitted it.
        progress: Told of every step.

    Returns:
        The manifest, already stored.

    Raises:
        LoraRefused: The adapter changes nothing, the model is not the backbone's, or vectors disagree. Nothing is
            stored then.
        ArtifactRefused: The backbone is damaged.
    """
    report = progress or (lambda step, fraction: None)
    report("storing the adapter", 0.0)
    standing = BackboneManifest.from_bytes(load_manifest_bytes(backbone, fetch))
    if source.weights_sha256 != standing.weights_sha256:
        raise LoraRefused(f"the adapter was fitted on {source.described}, which the backbone was not exported from")
    with tempfile.TemporaryDirectory(prefix="driftline-lora-") as name:
        folder = Path(name)
        write_folder(fitted, folder)
        stored = read_folder(folder)
    notes = Notes(
        recipe={"source": "fit", "settings": fitted.settings.to_dict()},
        dataset=dataset,
        metrics={**(metrics or {}), "fit": {name: fitted.report[name] for name in _KEPT}},
        parent=parent,
        job=job,
    )
    manifest = publish_proven(stored, source, backbone, fetch, store, notes, report, fitted.witness)
    report("done", 1.0)
    return manifest
