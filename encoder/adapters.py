"""Head adapters: a small verified graph from base vectors to the vectors of one version."""

from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from encoder.errors import ArtifactRefused
from encoder.graph import HEAD_OPERATORS, check_graph
from encoder.manifest import Fetch, HeadManifest, load_files, load_manifest_bytes
from encoder.runtime import OUTPUT, HeadSession

PROBE_TOLERANCE = 1e-4


class Head:
    """A loaded version of a head adapter; `apply` is safe from many threads at once.

    Attributes:
        digest: Digest of its manifest: the identity of the version.
        manifest: What it consists of.
    """

    def __init__(self, digest: str, manifest: HeadManifest, session: HeadSession) -> None:
        self.digest = digest
        self.manifest = manifest
        self._session = session

    @classmethod
    def open(cls, digest: str, fetch: Fetch) -> "Head":
        """Load a version, file by file against its manifest, and prove it on its probes.

        Raises:
            ArtifactRefused: Something is not what the manifest names, or the probes are not reproduced within 1e-4.
        """
        manifest = HeadManifest.from_bytes(load_manifest_bytes(digest, fetch))
        files = load_files(manifest.files, fetch)
        check_graph(files["head.onnx"], inputs={"base"}, outputs={OUTPUT}, operators=HEAD_OPERATORS)
        inputs, outputs = _probes(files["probes.safetensors"], manifest.dimension)
        try:
            head = cls(digest, manifest, HeadSession(files["head.onnx"]))
            found = head.apply(inputs)
        except ArtifactRefused:
            raise
        except Exception as error:  # the runtime raises bare exceptions of many kinds
            raise ArtifactRefused(f"head.onnx does not run: {type(error).__name__}") from error
        if not np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-3):
            raise ArtifactRefused("head.onnx gives vectors that are not of unit length")
        difference = float(np.abs(found - outputs).max())
        if not difference <= PROBE_TOLERANCE:
            raise ArtifactRefused(
                f"head.onnx does not reproduce its probes: largest difference {difference:.2e}, "
                f"at most {PROBE_TOLERANCE:.0e} is allowed"
            )
        return head

    def apply(self, base: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Adapted vectors of base vectors: (n, d) float32 to (n, d) float32 unit rows; n may be 0.

        Raises:
            ValueError: The array is not (n, d).
        """
        dimension = self.manifest.dimension
        if base.ndim != 2 or base.shape[1] != dimension:
            raise ValueError(f"base vectors must be (n, {dimension}), not {base.shape}")
        if not len(base):
            return np.empty((0, dimension), dtype=np.float32)
        vectors = self._session.run(np.ascontiguousarray(base, dtype=np.float32))
        if vectors.shape != base.shape:
            raise ArtifactRefused(f"head.onnx gives an array of shape {vectors.shape} for {base.shape}")
        return vectors


def probes_of(manifest: HeadManifest, fetch: Fetch) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The recorded inputs and outputs (n, d) float32 of a head.

    Raises:
        ArtifactRefused: They are not what the manifest names, or no probes.
    """
    name = "probes.safetensors"
    return _probes(load_files({name: manifest.files[name]}, fetch)[name], manifest.dimension)


def _probes(data: bytes, dimension: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    try:
        arrays: dict[str, npt.NDArray[Any]] = safetensors.numpy.load(data)
    except (SafetensorError, KeyError) as error:
        raise ArtifactRefused("probes.safetensors cannot be read") from error
    if arrays.keys() != {"inputs", "outputs"}:
        raise ArtifactRefused("probes.safetensors must hold exactly inputs and outputs")
    inputs, outputs = arrays["inputs"], arrays["outputs"]
    for array in (inputs, outputs):
        if array.dtype != np.float32 or array.ndim != 2 or array.shape[1] != dimension or not len(array):
            raise ArtifactRefused(f"probes.safetensors must hold (n, {dimension}) float32 arrays")
        if not np.isfinite(array).all():
            raise ArtifactRefused("probes.safetensors holds values that are not finite")
    if inputs.shape != outputs.shape:
        raise ArtifactRefused("probes.safetensors holds fewer outputs than inputs, or more")
    return inputs, outputs
