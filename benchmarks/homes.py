"""A throw-away home for the benchmarks: one backbone taken from another home, and adapters nobody had to fit.

Heads have the shape a default retrain gives them and small random weights, so they cost what fitted heads cost.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from encoder.encoder import Encoder
from encoder.manifest import BackboneManifest, FileEntry, HeadManifest, Parity
from monitoring.recipe import Recipe
from monitoring.reference import Reference, split_held_out
from registry import backbones, versions
from registry.home import Home
from registry.registry import Registry
from training.head_export import export_head
from training.weights import HeadWeights

Vectors = NDArray[np.float32]
PROBES = 64
HELD_OUT = 0.2
"""Share of the reference texts that calibrate and replay; the rest are what neighbours are looked up in."""


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """Names of what a throw-away home serves.

    Attributes:
        backbone: The backbone.
        heads: Head adapters without a reference, all different.
        watched, unwatched: Two adapters with one and the same head; only the first has a reference, so only its
            vectors go to the drift monitor.
    """

    backbone: str
    heads: tuple[str, ...]
    watched: str = "watched"
    unwatched: str = "unwatched"


def copy_backbone(source: Path | None, target: Path) -> str:
    """Import the default backbone of one home into another and return its name.

    Raises:
        SystemExit: The source has none.
    """
    giver, taker = Home.at(source).registry(), Home.at(target).registry()
    try:
        with giver.reading() as session:
            record = backbones.default(session)
        if record is None:
            raise SystemExit("no backbone is imported; run: driftline backbone import")
        manifest = BackboneManifest.from_bytes(giver.fetch(record.digest))
        for entry in manifest.files.values():
            taker.store(giver.fetch(entry.sha256))
        taker.store(giver.fetch(record.digest))
        with taker.writing() as session:
            # The name of the record, which may differ from the manifest's.
            backbones.add(session, {**manifest.to_dict(), "name": record.name}, record.digest)
        return record.name
    finally:
        giver.close()
        taker.close()


def add_heads(home: Path, name: str, count: int, reference_texts: Sequence[str]) -> Made:
    """Publish and promote `count` head adapters, and the pair with and without a reference.

    Args:
        home: Folder that `copy_backbone` filled.
        name: Name of its backbone.
        reference_texts: What the watched adapter's reference is built from.
    """
    registry = Home.at(home).registry()
    try:
        with registry.reading() as session:
            record = backbones.default(session)
        assert record is not None
        encoder = Encoder.open(record.digest, registry.fetch)
        base = encoder.encode(reference_texts, truncate=True).vectors
        heads = tuple(f"head-{number:02d}" for number in range(count))
        made = Made(name, heads)
        for seed, adapter in enumerate(heads):
            _publish(registry, record.digest, adapter, _weights(seed, record.dimension), base[:PROBES], None)
        weights = _weights(count, record.dimension)
        reference = registry.store(_reference(weights.apply(base)).to_bytes())
        _publish(registry, record.digest, made.watched, weights, base[:PROBES], reference)
        _publish(registry, record.digest, made.unwatched, weights, base[:PROBES], None)
        return made
    finally:
        registry.close()


def _weights(seed: int, dimension: int) -> HeadWeights:
    chance, hidden = np.random.default_rng(seed), Recipe().hidden
    inner = chance.normal(0, 1 / np.sqrt(dimension), (hidden, dimension)).astype(np.float32)
    outer = chance.normal(0, 0.01 / np.sqrt(hidden), (dimension, hidden)).astype(np.float32)
    return HeadWeights(outer, np.zeros(dimension, np.float32), inner, np.zeros(hidden, np.float32))


def _reference(vectors: Vectors) -> Reference:
    order = np.random.default_rng(0).permutation(len(vectors))
    held_out = order[: int(len(vectors) * HELD_OUT)]
    fit = order[len(held_out) :]
    calibration, replay = split_held_out(len(held_out))
    return Reference.build(
        fit=vectors[fit],
        fit_ids=[str(row) for row in fit],
        fit_labels=None,
        calibration=vectors[held_out[calibration]],
        replay=vectors[held_out[replay]],
    )


def _publish(
    registry: Registry, backbone: str, adapter: str, weights: HeadWeights, base: Vectors, reference: str | None
) -> None:
    probes = safetensors.numpy.save({"inputs": np.ascontiguousarray(base), "outputs": weights.apply(base)})
    files = {"head.onnx": export_head(weights), "probes.safetensors": probes}
    manifest = HeadManifest(
        backbone=backbone,
        dimension=weights.dimension,
        files={name: FileEntry.of(data) for name, data in files.items()},
        parity=Parity(len(base), 0.0, 1.0),
        recipe=Recipe().to_dict(),
        dataset={"name": "benchmark", "revision": 1, "digest": "0" * 64},
        metrics={},
        parent=None,
        job=f"benchmark-{adapter}",
        versions={},
    )
    enter(registry, adapter, "head", backbone, [*files.values(), manifest.to_bytes()], reference)


def enter(
    registry: Registry, adapter: str, kind: str, backbone: str, artifacts: Sequence[bytes], reference: str | None = None
) -> None:
    """Store artifacts, the manifest last, and make them the live version of a new adapter."""
    digest = [registry.store(data) for data in artifacts][-1]
    with registry.writing() as session:
        versions.ensure_adapter(session, adapter, backbone)
        version = versions.publish(
            session,
            adapter=adapter,
            digest=digest,
            kind=kind,
            backbone=backbone,
            reference=reference,
            parent=None,
            job_id=None,
            dataset="benchmark@1",
            metrics={},
            verdict=None,
            rejected=False,
        )
        versions.promote(session, adapter, version.number, by="benchmark")
