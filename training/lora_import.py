"""Import of a LoRA adapter trained with PEFT: published only when the served graph reproduces PEFT's vectors.

The adapter is read here, and run by PEFT itself on the pretrained model in torch; both must agree on the parity texts.
"""

from pathlib import Path

from encoder.lora_manifest import LoraManifest
from encoder.manifest import BackboneManifest, Fetch, Store, load_manifest_bytes
from training.lora_proof import Notes, Progress, publish_proven
from training.peft_folder import LoraRefused, read_folder
from training.peft_reference import find_source

__all__ = ["LoraRefused", "import_lora"]


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
    return publish_proven(stored, source, backbone, fetch, store, Notes({"source": "peft"}, parent=parent), report)
