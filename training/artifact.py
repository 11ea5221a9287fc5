"""The steps of a retrain that make the artifact which is judged and served: export, and proof that it was fitted so.

A head's graph is written and held against its weights here. A LoRA's artifact is written and proven in a process of its
own, since that takes torch, and then run here as a service would run it.
"""

import importlib.metadata
from typing import Any

import numpy as np

from encoder.adapters import Head
from encoder.lora_manifest import LoraManifest
from encoder.manifest import FileEntry, HeadManifest, Parity
from encoder.runtime import HeadSession
from training.contenders import candidate
from training.errors import ExportFailed
from training.fitted import FILE as FITTED
from training.head_export import export_head
from training.lora_task import DRAFT
from training.lora_worker import prove_lora
from training.problem import Vectors
from training.steps import JobContext

MAX_ABS_DIFFERENCE = 1e-4
MIN_COSINE = 0.99999
# An adapter whose largest component differs from the base's by less than this was lost on the way.
MIN_CHANGE = 1e-4
PROBES = 64
_VERSIONED = ("numpy", "onnx", "onnxruntime", "torch")


def export(context: JobContext) -> None:
    """Write the artifact into the work folder, with probes by which a loader can tell that it runs right.

    Raises:
        ExportFailed: A LoRA's fitted, stored and exported form do not agree.
    """
    if context.kind == LoraManifest.KIND:
        prove_lora(context, lambda told: context.tell_sometimes("export", told["share"], told["doing"]))
    else:
        weights = context.weights()
        _, generic = context.vectors()
        inputs = generic[:: max(1, len(generic) // PROBES)][:PROBES]
        context.folder.write("head.onnx", export_head(weights))
        context.folder.write_arrays("probes.safetensors", {"inputs": inputs, "outputs": weights.apply(inputs)})
    context.tell("export", 1.0)


def check(context: JobContext) -> None:
    """Prove the exported artifact on every text of the dataset, and that it is not the base.

    Raises:
        ExportFailed: It gives other vectors than what was fitted, or those of the base.
        ArtifactRefused: A loader would refuse it.
    """
    parity = _checked_lora(context) if context.kind == LoraManifest.KIND else _checked_head(context)
    context.tell(
        "check",
        1.0,
        f"largest difference {parity.max_abs_difference:.1e} over {parity.texts} vectors",
        {"parity": {"max_abs_difference": parity.max_abs_difference, "min_cosine": parity.min_cosine}},
    )


def _checked_lora(context: JobContext) -> Parity:
    """The agreement with torch that `export` proved; here the dataset is run through the serving runtime."""
    base, generic = context.vectors()
    model = candidate(context, lambda done, whole: context.tell_sometimes("check", done / whole, f"{done} of {whole}"))
    found = np.concatenate([model.texts, model.generic])
    if not np.isfinite(found).all() or np.abs(np.linalg.norm(found, axis=1) - 1).max() > 1e-2:
        raise ExportFailed("the exported LoRA gives vectors that are not of unit length; nothing was published")
    _require_change(found, np.concatenate([base, generic]))
    return LoraManifest.from_bytes(context.folder.read(DRAFT)).parity


def _checked_head(context: JobContext) -> Parity:
    base, generic = context.vectors()
    rows = np.concatenate([base, generic])
    graph = context.folder.read("head.onnx")
    exported = HeadSession(graph).run(rows)
    fitted = context.weights().apply(rows)
    parity = _agree(exported, fitted, "the fitted weights")
    witness = context.folder.read_arrays("witness.safetensors")
    _agree(HeadSession(graph).run(witness["inputs"]), witness["outputs"], "torch")
    _require_change(exported, rows)
    draft = _draft(context, graph, parity).to_bytes()
    files = [draft, graph, context.folder.read("probes.safetensors")]
    kept = {FileEntry.of(data).sha256: data for data in files}
    reloaded = Head.open(FileEntry.of(draft).sha256, kept.__getitem__)
    _agree(reloaded.apply(rows), fitted, "the fitted weights after reloading")
    context.folder.write(DRAFT, draft)
    return parity


def _agree(found: Vectors, wanted: Vectors, what: str) -> Parity:
    difference = float(np.abs(found - wanted).max())
    cosine = min(1.0, float((found * wanted).sum(axis=1).min()))
    # Written so that a NaN fails.
    if not (difference <= MAX_ABS_DIFFERENCE and cosine >= MIN_COSINE):
        raise ExportFailed(
            f"the exported head differs from {what} by {difference:.1e} (smallest cosine {cosine:.6f}); "
            "nothing was published. Queue the retrain again, and report it if it happens twice"
        )
    return Parity(len(found), difference, cosine)


def _require_change(found: Vectors, base: Vectors) -> None:
    change = float(np.abs(found - base).max())
    if not change >= MIN_CHANGE:
        raise ExportFailed(
            f"the fitted adapter changes no vector by more than {change:.1e}, so it would only repeat the base; "
            "give the fit more steps or a higher learning_rate"
        )


def _draft(context: JobContext, graph: bytes, parity: Parity) -> HeadManifest:
    """The head's manifest without the figures of its evaluation."""
    facts: dict[str, Any] = context.snapshot
    champion = facts["champion"]
    return HeadManifest(
        backbone=facts["backbone"],
        dimension=context.weights().dimension,
        files={
            "head.onnx": FileEntry.of(graph),
            "probes.safetensors": FileEntry.of(context.folder.read("probes.safetensors")),
        },
        parity=parity,
        recipe=context.recipe.to_dict(),
        dataset=facts["dataset"] | {"fitted": FileEntry.of(context.folder.read(FITTED)).sha256},
        metrics={},
        parent=None if champion is None else champion["digest"],
        job=context.job.id,
        versions={name: importlib.metadata.version(name) for name in _VERSIONED},
    )
