"""The real default backbone for the encoder's tests: its files in memory, and one encoder on the CPU provider."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from encoder.encoder import Encoder
from encoder.manifest import BackboneManifest, sha256
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
