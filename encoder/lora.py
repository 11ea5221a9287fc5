"""LoRA adapters: verified low-rank weights, held in the order in which the backbone's graph takes them."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from encoder.errors import ArtifactRefused
from encoder.lora_graph import slots_of
from encoder.lora_manifest import LoraManifest
from encoder.manifest import Fetch, load_files, load_manifest_bytes
from encoder.probes import Probes

Matrix = npt.NDArray[np.float32]
Pair = tuple[Matrix, Matrix]
"""A (r, in) and B (r, out) of one module, which adds `(x @ A.T) @ B` to its output; the scale is within B."""

# No trained weight comes near; beyond it, sums in float32 and roundings to bfloat16 could overflow.
MAX_WEIGHT = 65504.0
WEIGHTS = "lora.safetensors"
PROBES = "probes.json"


class Lora:
    """A loaded version of a LoRA adapter; immutable, so that threads may share it.

    Attributes:
        digest: Digest of its manifest: the identity of the version.
        manifest: What it consists of.
        rank: Columns it takes in a run.
        shapes: Module -> (features in, features out).
        slots: Width -> which matrices have it, in the order of the stack.
        stacks: Width -> (slots, r, width) float32, its matrices of that width.
        probes: Texts and the vectors it must give for them.
        nbytes: Memory of its weights, in bytes.
    """

    def __init__(self, digest: str, manifest: LoraManifest, pairs: Mapping[str, Pair], probes: Probes) -> None:
        self.digest = digest
        self.manifest = manifest
        self.rank = manifest.rank
        self.probes = probes
        self.shapes = {name: (a.shape[1], b.shape[1]) for name, (a, b) in pairs.items()}
        self.slots = slots_of(self.shapes)
        self.stacks: dict[int, Matrix] = {}
        for width, slots in self.slots.items():
            stack = np.stack([pairs[name][0 if side == "A" else 1] for name, side in slots])
            stack.flags.writeable = False
            self.stacks[width] = stack
        self.nbytes = sum(stack.nbytes for stack in self.stacks.values())

    @classmethod
    def open(cls, digest: str, fetch: Fetch) -> "Lora":
        """Load a version, file by file against its manifest.

        That it fits its backbone and reproduces its probes is proven by `Encoder.prove`.

        Raises:
            ArtifactRefused: Something is not what the manifest names, or not the weights of a LoRA adapter.
        """
        manifest = LoraManifest.from_bytes(load_manifest_bytes(digest, fetch))
        files = load_files(manifest.files, fetch)
        probes = Probes.from_bytes(files[PROBES])
        if probes.vectors.shape[1] != manifest.dimension:
            raise ArtifactRefused(f"{PROBES} holds vectors of another width than {manifest.dimension}")
        return cls(digest, manifest, pairs_of(files[WEIGHTS], manifest.rank), probes)

    def pairs(self) -> dict[str, Pair]:
        """A and B of each module."""
        found: dict[str, dict[str, Matrix]] = {name: {} for name in self.shapes}
        for width, slots in self.slots.items():
            for (name, side), matrix in zip(slots, self.stacks[width], strict=True):
                found[name][side] = matrix
        return {name: (sides["A"], sides["B"]) for name, sides in found.items()}


def weights_bytes(pairs: Mapping[str, Pair]) -> bytes:
    """The file `lora.safetensors`: tensors `<module>.A` and `<module>.B`."""
    tensors = {
        f"{name}.{side}": matrix for name, pair in pairs.items() for side, matrix in zip("AB", pair, strict=True)
    }
    data: bytes = safetensors.numpy.save({name: np.ascontiguousarray(matrix) for name, matrix in tensors.items()})
    return data


def pairs_of(data: bytes, rank: int) -> dict[str, Pair]:
    """Read `lora.safetensors` strictly.

    Raises:
        ArtifactRefused: Not such a file, or a name, shape, type or value is not allowed.
    """
    try:
        tensors = safetensors.numpy.load(data)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ArtifactRefused(f"{WEIGHTS} cannot be read") from error
    names = {name.rpartition(".")[0] for name in tensors}
    if not names or "" in names or tensors.keys() != {f"{name}.{side}" for name in names for side in "AB"}:
        raise ArtifactRefused(f"{WEIGHTS} must hold A and B of each module, and nothing else")
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or tensor.ndim != 2 or not tensor.size:
            raise ArtifactRefused(f"{WEIGHTS}: {name} is not a float32 matrix")
        if len(tensor) != rank:
            raise ArtifactRefused(f"{WEIGHTS}: {name} has the rank {len(tensor)}, the manifest says {rank}")
        if not (np.abs(tensor) <= MAX_WEIGHT).all():  # written so that a NaN fails
            raise ArtifactRefused(f"{WEIGHTS}: {name} holds values that are not finite or beyond {MAX_WEIGHT:.0f}")
    return {name: (tensors[f"{name}.A"], tensors[f"{name}.B"]) for name in sorted(names)}
