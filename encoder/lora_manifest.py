"""What a version of a LoRA adapter consists of: a manifest beside those of backbones and heads."""

from dataclasses import dataclass
from typing import Any, ClassVar

from encoder.errors import ArtifactRefused
from encoder.manifest import (
    FileEntry,
    Parity,
    manifest_bytes,
    manifest_dict,
    read_manifest,
    require_digest,
    sha256,
)

MAX_RANK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraManifest:
    """A version of a LoRA adapter: low-rank weights beside Linear modules of one backbone.

    Attributes:
        backbone: Digest of the backbone whose modules it changes.
        dimension: Width of the sentence vector.
        rank: Rank of every matrix pair; where the source has several, the largest (the others hold zeros).
        files: "lora.safetensors" and "probes.json".
        parity: Measured agreement with PEFT in torch.
        recipe: Settings of the source: rank, alpha, modules and the like.
        dataset: What it was trained on, as far as it is known.
        metrics: Figures of its making.
        parent: Digest of the version that was live before it, if any.
        job: The job that made it, None for an import.
        versions: Library name -> version.
    """

    KIND: ClassVar[str] = "lora"
    FILES: ClassVar[frozenset[str]] = frozenset({"lora.safetensors", "probes.json"})

    kind: str = "lora"
    backbone: str
    dimension: int
    rank: int
    files: dict[str, FileEntry]
    parity: Parity
    recipe: dict[str, Any]
    dataset: dict[str, Any]
    metrics: dict[str, Any]
    parent: str | None
    job: str | None
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The manifest as plain JSON values."""
        return manifest_dict(self)

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, no timestamps."""
        return manifest_bytes(self)

    @property
    def digest(self) -> str:
        """sha256 of `to_bytes()`: the identity of the version."""
        return sha256(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> "LoraManifest":
        """Read a manifest strictly.

        Raises:
            ArtifactRefused: Not JSON, or a field is missing, unknown or of the wrong kind.
        """
        manifest = read_manifest(cls, data)
        require_digest(manifest.backbone, "backbone")
        if manifest.parent is not None:
            require_digest(manifest.parent, "parent")
        if manifest.dimension < 1:
            raise ArtifactRefused("lora manifest: dimension must be at least 1")
        if not 1 <= manifest.rank <= MAX_RANK:
            raise ArtifactRefused(f"lora manifest: rank must be from 1 to {MAX_RANK}")
        return manifest
