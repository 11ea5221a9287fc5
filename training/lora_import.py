"""Import of a LoRA adapter trained with PEFT: published only when the served graph reproduces PEFT's vectors.

The adapter is read here, and run by PEFT itself on the pretrained model in torch; both must agree on the parity texts.
"""

import importlib.metadata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from encoder.batch import plan_batches
from encoder.encoder import Encoder
from encoder.errors import EncoderError
from encoder.lora import PROBES, WEIGHTS, Lora, weights_bytes
from encoder.lora_graph import linear_sites
from encoder.lora_manifest import LoraManifest
from encoder.manifest import BackboneManifest, Fetch, FileEntry, Parity, Probes, Store, load_manifest_bytes, sha256
from encoder.runtime import Run
from training.parity import parity_texts, prove
from training.peft_folder import TENSORS, LoraRefused, PeftAdapter, read_folder
from training.peft_reference import find_source, open_reference
from training.sources import ExportRefused

__all__ = ["LoraRefused", "import_lora"]

# An adapter whose largest change of a component is less than this was lost on the way, or never trained.
MIN_CHANGE = 1e-4
_CHANGE_TEXTS = 64
_LIBRARIES = ("onnx", "onnxruntime", "peft", "torch", "transformers")
# A layer behind the tokens' vectors, which BERT-like models carry and sentence vectors do not use.
_UNUSED = "pooler."

Progress = Callable[[str, float], None]
"""Called with the name of the step and the fraction of the whole import that is done."""


def import_lora(
    folder: Path,
    backbone: str,
    fetch: Fetch,
    store: Store,
    *,
    base: str | None = None,
    parent: str | None = None,
    progress: Progress | None = None,
) -> LoraManifest:
    """Read a PEFT folder, prove it against PEFT in torch, and publish it.

    Args:
        folder: Holds `adapter_config.json` and `adapter_model.safetensors`.
        backbone: Digest of the manifest of the backbone it was trained on.
        fetch, store: Read and keep bytes by their digest. The manifest is stored last.
        base: The pretrained model in torch, a folder or a hub id; None finds it from the backbone and the adapter.
        parent: Digest of the version that is live now, if any.
        progress: Told of every step.

    Returns:
        The manifest, already stored.

    Raises:
        LoraRefused: The folder is not plain LoRA for this backbone, or parity is not met. Nothing is stored then.
        ExportRefused: The pretrained model cannot be read.
        ArtifactRefused: The backbone is damaged.
    """
    report = progress or (lambda step, fraction: None)
    report("reading the adapter", 0.0)
    stored = read_folder(folder)
    standing = BackboneManifest.from_bytes(load_manifest_bytes(backbone, fetch))
    source = find_source(base, stored.config, standing)
    report("loading the model", 0.05)
    encoder = Encoder.open(backbone, fetch, provider="cpu", precision="fp32")
    reference, adapter = open_reference(source, stored)
    graph = onnx.load_model_from_string(fetch(standing.files["model.onnx"].sha256))
    adapter, ignored = _in_graph(adapter, set(linear_sites(graph)))
    del graph
    weights = weights_bytes(adapter.pairs())
    draft = _draft(backbone, standing.dimension, adapter, weights, ignored, parent)
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
        manifest = replace(draft, parity=parity, files=files, metrics={"change": round(change, 6)})
        # The last proof: the loader itself accepts exactly these bytes.
        blobs = {sha256(data): data for data in (weights, probes, manifest.to_bytes())}
        encoder.prove(Lora.open(manifest.digest, blobs.__getitem__))
    except (EncoderError, ExportRefused) as error:
        raise LoraRefused(f"the adapter is refused: {error}") from error
    report("storing", 0.95)
    for data in (weights, probes, manifest.to_bytes()):
        store(data)
    report("done", 1.0)
    return manifest


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
    backbone: str, dimension: int, adapter: PeftAdapter, weights: bytes, ignored: list[str], parent: str | None
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
            "source": "peft",
            "alpha": config["lora_alpha"],
            "rank": config.get("r"),
            "rslora": bool(config.get("use_rslora")),
            "modules": sorted(adapter.tensors),
            "ignored": ignored,
        },
        dataset={},
        metrics={},
        parent=parent,
        job=None,
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
