"""Proof of a LoRA adapter before it is published: the served graph must give the vectors that PEFT gives in torch.

An adapter that was imported and one that was fitted here go the same way, from the files that PEFT stores.
"""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from encoder.batch import TokenIds, plan_batches
from encoder.encoder import Encoder
from encoder.errors import EncoderError
from encoder.lora import PROBES, WEIGHTS, Lora, weights_bytes
from encoder.lora_graph import linear_sites
from encoder.lora_manifest import LoraManifest
from encoder.manifest import BackboneManifest, Fetch, FileEntry, Parity, Store, load_manifest_bytes, sha256
from encoder.probes import Probes
from encoder.runtime import Run
from training.parity import parity_texts, prove
from training.peft_folder import TENSORS, LoraRefused, PeftAdapter
from training.peft_reference import open_reference
from training.sources import ExportRefused, Source

# An adapter whose largest change of a component is less than this was lost on the way, or never trained.
MIN_CHANGE = 1e-4
# Vectors of a fitted adapter before it was stored and after differ by the order of sums alone.
WITNESS_TOLERANCE = 1e-5
_CHANGE_TEXTS = 64
_LIBRARIES = ("onnx", "onnxruntime", "peft", "torch", "transformers")
# A layer behind the tokens' vectors, which BERT-like models carry and sentence vectors do not use.
_UNUSED = "pooler."

Progress = Callable[[str, float], None]
"""Called with the name of the step and the fraction of the whole that is done."""
Witness = tuple[TokenIds, npt.NDArray[np.float32]]
"""Token ids of some texts and the vectors (n, d) that the adapter gave for them before it was stored."""


@dataclass(frozen=True, slots=True)
class Notes:
    """What a manifest says beyond what is proven here; plain JSON values without times and paths.

    Attributes:
        recipe: How it came to be; rank, alpha and modules are added.
        dataset: What it was trained on, as far as it is known.
        metrics: Figures of its making; `change` is added.
        parent: Digest of the version that was live before it, if any.
        job: The job that made it, None for an import.
    """

    recipe: dict[str, Any]
    dataset: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None
    job: str | None = None


@dataclass(frozen=True, slots=True)
class Proven:
    """A proven adapter: its manifest, and the bytes of `lora.safetensors` and `probes.json`."""

    manifest: LoraManifest
    weights: bytes
    probes: bytes


def publish_proven(
    stored: PeftAdapter,
    source: Source,
    backbone: str,
    fetch: Fetch,
    store: Store,
    notes: Notes,
    report: Progress,
    witness: Witness | None = None,
) -> LoraManifest:
    """Prove an adapter and store its files, the manifest last; see `prove_adapter`."""
    proven = prove_adapter(stored, source, backbone, fetch, notes, report, witness)
    report("storing", 0.95)
    for data in (proven.weights, proven.probes, proven.manifest.to_bytes()):
        store(data)
    report("done", 1.0)
    return proven.manifest


def prove_adapter(
    stored: PeftAdapter,
    source: Source,
    backbone: str,
    fetch: Fetch,
    notes: Notes,
    report: Progress,
    witness: Witness | None = None,
) -> Proven:
    """Prove that an adapter, on the backbone's graph, gives what PEFT gives in torch.

    Args:
        stored: The adapter as it was read from its files.
        source: The pretrained model in torch that the backbone was exported from.
        backbone: Digest of the backbone's manifest.
        fetch: Reads bytes by their digest.
        notes: What the manifest says of its making.
        report: Told of every step, with fractions from 0.05 to 0.9.
        witness: What the stored adapter must still give on the pretrained model in torch.

    Raises:
        LoraRefused: It does not fit, changes nothing, or vectors disagree.
        ExportRefused: The pretrained model cannot be read.
        ArtifactRefused: The backbone is damaged.
    """
    report("loading the model", 0.05)
    standing = BackboneManifest.from_bytes(load_manifest_bytes(backbone, fetch))
    encoder = Encoder.open(backbone, fetch, provider="cpu", precision="fp32")
    reference, adapter = open_reference(source, stored)
    if witness is not None:
        _require_witness(reference, witness)
    graph = onnx.load_model_from_string(fetch(standing.files["model.onnx"].sha256))
    adapter, ignored = _in_graph(adapter, set(linear_sites(graph)))
    del graph
    weights = weights_bytes(adapter.pairs())
    draft = _draft(backbone, standing.dimension, adapter, weights, ignored, notes)
    try:
        # What the real manifest says, its probes and its parity, is computed under a draft that has neither.
        nothing = Probes(("",), np.eye(1, standing.dimension, dtype=np.float32))
        served = _served(encoder, Lora("", draft, adapter.pairs(), nothing))
        change = _change(encoder, served)
        report("proving parity with PEFT", 0.2)
        parity = prove(
            encoder.tokenizer, reference, served, lambda part: report("proving parity with PEFT", 0.2 + 0.65 * part)
        )
        report("recording probes", 0.9)
        from training.export import record_probes

        probes = record_probes(encoder.tokenizer, served).to_bytes()
        files = {**draft.files, PROBES: FileEntry.of(probes)}
        manifest = replace(draft, parity=parity, files=files, metrics={**notes.metrics, "change": round(change, 6)})
        # The last proof: the loader itself accepts exactly these bytes.
        blobs = {sha256(data): data for data in (weights, probes, manifest.to_bytes())}
        encoder.prove(Lora.open(manifest.digest, blobs.__getitem__))
    except (EncoderError, ExportRefused) as error:
        raise LoraRefused(f"the adapter is refused: {error}") from error
    return Proven(manifest, weights, probes)


def _in_graph(adapter: PeftAdapter, sites: set[str]) -> tuple[PeftAdapter, list[str]]:
    """The adapter less the modules that sentence vectors do not depend on, and the names of those."""
    missing = sorted(adapter.tensors.keys() - sites)
    for name in missing:
        if not name.startswith(_UNUSED):
            raise LoraRefused(f"{TENSORS}: {name} has no name in the backbone's graph; import the backbone anew")
    if len(missing) == len(adapter.tensors):
        raise LoraRefused(f"{TENSORS}: the adapter changes only modules that sentence vectors do not depend on")
    return adapter.without(missing), missing


def _draft(
    backbone: str, dimension: int, adapter: PeftAdapter, weights: bytes, ignored: list[str], notes: Notes
) -> LoraManifest:
    """The manifest as far as it is known before anything ran; no times and no paths: equal work gives equal bytes."""
    config = adapter.config
    return LoraManifest(
        backbone=backbone,
        dimension=dimension,
        rank=adapter.rank,
        files={WEIGHTS: FileEntry.of(weights)},
        parity=Parity(0, 0.0, 1.0),
        recipe={
            **notes.recipe,
            "alpha": config["lora_alpha"],
            "rank": config.get("r"),
            "rslora": bool(config.get("use_rslora")),
            "modules": sorted(adapter.tensors),
            "ignored": ignored,
        },
        dataset=notes.dataset,
        metrics=notes.metrics,
        parent=notes.parent,
        job=notes.job,
        versions={library: importlib.metadata.version(library) for library in _LIBRARIES},
    )


def _served(encoder: Encoder, lora: Lora) -> Run:
    return lambda tokens: encoder.forward_adapted(tokens, [lora] * len(tokens))


def _change(encoder: Encoder, served: Run) -> float:
    """Largest change of a component by the adapter, over the first of the parity texts.

    Raises:
        LoraRefused: It changes nothing to speak of.
    """
    ids = encoder.tokenizer.encode(parity_texts(encoder.tokenizer)[:_CHANGE_TEXTS], truncate=True).ids
    change = 0.0
    for batch in plan_batches([len(row) for row in ids], 1024):
        tokens = [ids[index] for index in batch]
        change = max(change, float(np.abs(served(tokens) - encoder.run(tokens)).max()))
    if not change >= MIN_CHANGE:
        raise LoraRefused(
            f"the adapter changes no vector by more than {change:.1e}, so it would only repeat the backbone; "
            "was it saved before it was trained?"
        )
    return change


def _require_witness(reference: Run, witness: Witness) -> None:
    """Raise where the adapter, read back from its files, is no longer the one that was fitted.

    Raises:
        LoraRefused: as described.
    """
    tokens, wanted = witness
    found = np.empty_like(wanted)
    for batch in plan_batches([len(row) for row in tokens], 1024):
        found[batch] = reference([tokens[index] for index in batch])
    difference = float(np.abs(found - wanted).max())
    if not difference <= WITNESS_TOLERANCE:  # written so that a NaN fails
        raise LoraRefused(
            f"the stored adapter gives other vectors than the fitted one: they differ by up to {difference:.1e}, "
            f"{WITNESS_TOLERANCE:.0e} is allowed"
        )
