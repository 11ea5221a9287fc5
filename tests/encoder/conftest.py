"""The real default backbone for the encoder's tests: its files in memory, and one encoder on the CPU provider."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from encoder.encoder import Encoder
from encoder.lora import PROBES, WEIGHTS, Lora, weights_bytes
from encoder.lora_manifest import LoraManifest
from encoder.manifest import BackboneManifest, FileEntry, Parity, sha256
from encoder.probes import Probes
from registry import backbones
from registry.home import Home


@dataclass(frozen=True)
class Blobs:
    """Artifacts by digest, as a store would hold them, and the digest of the backbone's manifest."""

    digest: str
    held: dict[str, bytes]

    def fetch(self, digest: str) -> bytes:
        return self.held[digest]

    @property
    def manifest(self) -> BackboneManifest:
        return BackboneManifest.from_bytes(self.held[self.digest])

    def file(self, name: str) -> bytes:
        return self.held[self.manifest.files[name].sha256]

    def with_manifest(self, data: bytes, *more: bytes) -> "Blobs":
        """The same artifacts with another manifest and other files put beside them."""
        added = {sha256(blob): blob for blob in (data, *more)}
        return Blobs(sha256(data), {**self.held, **added})


@pytest.fixture(scope="session")
def blobs(exported_backbone: Path) -> Iterator[Blobs]:
    registry = Home.at(exported_backbone).registry()
    with registry.reading() as session:
        backbone = backbones.default(session)
    assert backbone is not None
    manifest = BackboneManifest.from_bytes(registry.fetch(backbone.digest))
    digests = [backbone.digest, *(entry.sha256 for entry in manifest.files.values())]
    yield Blobs(backbone.digest, {digest: registry.fetch(digest) for digest in digests})
    registry.close()


@pytest.fixture(scope="session")
def encoder(blobs: Blobs) -> Encoder:
    return Encoder.open(blobs.digest, blobs.fetch, provider="cpu")


@pytest.fixture(scope="session")
def open_encoder(blobs: Blobs) -> Callable[..., Encoder]:
    def opened(**options: object) -> Encoder:
        return Encoder.open(blobs.digest, blobs.fetch, **options)  # type: ignore[arg-type]

    return opened


WIDTHS = {"query": (384, 384), "key": (384, 384), "value": (384, 384), "intermediate.dense": (384, 1536)}


@dataclass(frozen=True)
class LoraMaker:
    """Makes LoRA adapters of random weights, as artifacts and loaded."""

    backbone: str

    def pairs(
        self, seed: int, rank: int, modules: Sequence[str] = ("query", "value"), layers: Sequence[int] = range(6)
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """A and B of some modules of some layers; together they move a vector by some degrees."""
        draw = np.random.default_rng(seed)
        made = {}
        for layer in layers:
            for module in modules:
                inner = "" if "." in module else "attention.self."
                wide, out = WIDTHS[module]
                a = draw.normal(size=(rank, wide), scale=wide**-0.5).astype(np.float32)
                b = draw.normal(size=(rank, out), scale=0.1).astype(np.float32)
                made[f"encoder.layer.{layer}.{inner}{module}"] = (a, b)
        return made

    def published(
        self,
        pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
        probes: Probes | None = None,
        *,
        weights: bytes | None = None,
        **changed: object,
    ) -> tuple[str, dict[str, bytes]]:
        """(digest, blobs) of an adapter whose manifest names exactly these weights."""
        probes = probes or Probes(("nobody asked for these",), np.eye(1, 384, dtype=np.float32))
        files = {WEIGHTS: weights if weights is not None else weights_bytes(pairs), PROBES: probes.to_bytes()}
        fields = {
            "backbone": self.backbone,
            "dimension": 384,
            "rank": max(len(a) for a, _ in pairs.values()),
            "files": {name: FileEntry.of(data) for name, data in files.items()},
            "parity": Parity(1, 0.0, 1.0),
            "recipe": {},
            "dataset": {},
            "metrics": {},
            "parent": None,
            "job": None,
            "versions": {},
            **changed,
        }
        manifest = LoraManifest(**fields)  # type: ignore[arg-type]
        return manifest.digest, {sha256(data): data for data in (*files.values(), manifest.to_bytes())}

    def __call__(self, seed: int, rank: int = 8, **where: Sequence[object]) -> Lora:
        digest, held = self.published(self.pairs(seed, rank, **where))  # type: ignore[arg-type]
        return Lora.open(digest, held.__getitem__)


@pytest.fixture(scope="session")
def make_lora(blobs: Blobs) -> LoraMaker:
    return LoraMaker(blobs.digest)
