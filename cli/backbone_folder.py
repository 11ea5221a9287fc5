"""A backbone as a plain folder, `backbone.json` and the files it names: how an image carries one without a registry."""

from pathlib import Path

from encoder.errors import ArtifactRefused
from encoder.manifest import BackboneManifest, Fetch, Store, sha256

MANIFEST = "backbone.json"
"""The manifest's name in the folder; its bytes are canonical, so their digest is the backbone's."""


def is_backbone_folder(folder: Path) -> bool:
    """Whether a folder was written by `write_backbone`."""
    return (folder / MANIFEST).is_file()


def write_backbone(folder: Path, digest: str, fetch: Fetch) -> BackboneManifest:
    """Write a backbone's files under their own names, the manifest last, and return it.

    Raises:
        ArtifactMissing, ArtifactCorrupt: From `fetch`.
        OSError: The folder exists already, or cannot be written.
    """
    data = fetch(digest)
    manifest = BackboneManifest.from_bytes(data)
    folder.mkdir(parents=True)
    for name, entry in manifest.files.items():
        (folder / name).write_bytes(fetch(entry.sha256))
    (folder / MANIFEST).write_bytes(data)
    return manifest


def read_backbone(folder: Path, store: Store) -> BackboneManifest:
    """Put a folder's backbone into a store, manifest last, and return its manifest.

    Only files that the manifest may name are opened, and each must have the digest that stands there.

    Raises:
        ArtifactRefused: The manifest is malformed, or a file is missing or another one.
    """
    data = _read(folder, MANIFEST)
    manifest = BackboneManifest.from_bytes(data)
    for name, entry in manifest.files.items():
        content = _read(folder, name)
        if sha256(content) != entry.sha256:
            raise ArtifactRefused(f"{name} in {folder} is not the file that {MANIFEST} names")
        store(content)
    store(data)
    return manifest


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise ArtifactRefused(f"{name} in {folder} cannot be read: {error.strerror}") from None
