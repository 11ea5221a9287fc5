"""LoRA adapters for the benchmarks: random weights of the shape PEFT gives them, published without training.

Query and value of every attention layer, which is PEFT's default for encoders of this family, all of one rank.
"""

from pathlib import Path

import numpy as np
import onnx
from homes import enter

from encoder.encoder import Encoder
from encoder.lora import PROBES, WEIGHTS, Lora, Pair, weights_bytes
from encoder.lora_graph import linear_sites
from encoder.lora_manifest import LoraManifest
from encoder.manifest import FileEntry, Parity
from encoder.probes import Probes
from registry import backbones
from registry.home import Home

RANK = 8
MODULES = ("query", "value")
PROBE_TEXTS = ("What is my balance?", "The card has not arrived.", "I want to change my address, please.")


def add_loras(home: Path, count: int) -> tuple[str, ...]:
    """Publish and promote `count` different LoRA adapters on a home's default backbone; their names.

    Their probe vectors come from the graph that serves them: this benchmark is about speed.
    """
    registry = Home.at(home).registry()
    try:
        with registry.reading() as session:
            record = backbones.default(session)
        assert record is not None
        encoder = Encoder.open(record.digest, registry.fetch, precision="fp32")
        graph = onnx.load_model_from_string(registry.fetch(encoder.manifest.files["model.onnx"].sha256))
        shapes = {
            name: (site.width_in, site.width_out)
            for name, site in linear_sites(graph).items()
            if name.rpartition(".")[2] in MODULES
        }
        names = tuple(f"lora-{number:02d}" for number in range(count))
        for seed, name in enumerate(names):
            artifacts = _artifacts(encoder, _pairs(seed, shapes))
            enter(registry, name, "lora", record.digest, artifacts)
        return names
    finally:
        registry.close()


def _pairs(seed: int, shapes: dict[str, tuple[int, int]]) -> dict[str, Pair]:
    """A and B of each module, so small that vectors move without losing their meaning."""
    chance = np.random.default_rng(seed)
    return {
        name: (
            chance.normal(0, 1 / np.sqrt(inner), (RANK, inner)).astype(np.float32),
            chance.normal(0, 0.02, (RANK, outer)).astype(np.float32),
        )
        for name, (inner, outer) in shapes.items()
    }


def _artifacts(encoder: Encoder, pairs: dict[str, Pair]) -> list[bytes]:
    """Weights, probes and manifest; the probes are what a draft of the version, with the same weights, gives."""
    weights = weights_bytes(pairs)
    width = encoder.manifest.dimension
    draft = Probes(PROBE_TEXTS, np.eye(len(PROBE_TEXTS), width, dtype=np.float32))
    lora = Lora("0" * 64, _manifest(encoder, weights, draft), pairs, draft)
    tokens = encoder.tokenizer.encode(PROBE_TEXTS).ids
    encoder.prepare_adapters(lora)
    probes = Probes(PROBE_TEXTS, encoder.forward_adapted(tokens, [lora] * len(PROBE_TEXTS)))
    return [weights, probes.to_bytes(), _manifest(encoder, weights, probes).to_bytes()]


def _manifest(encoder: Encoder, weights: bytes, probes: Probes) -> LoraManifest:
    return LoraManifest(
        backbone=encoder.digest,
        dimension=encoder.manifest.dimension,
        rank=RANK,
        files={WEIGHTS: FileEntry.of(weights), PROBES: FileEntry.of(probes.to_bytes())},
        parity=Parity(len(probes.texts), 0.0, 1.0),
        recipe={"rank": RANK, "modules": list(MODULES)},
        dataset={},
        metrics={},
        parent=None,
        job=None,
        versions={},
    )
