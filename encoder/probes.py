"""Probes: texts with the vectors a model gave for them, which every loaded one must reproduce."""

import base64
import binascii
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from encoder.errors import ArtifactRefused
from encoder.manifest import canonical, json_object


@dataclass(frozen=True, slots=True)
class Probes:
    """Texts with the vectors the exported graph gave for them: what a loaded model must reproduce.

    Attributes:
        texts: The probe texts.
        vectors: (n, d) float32, unit rows.
    """

    texts: tuple[str, ...]
    vectors: npt.NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """JSON with the vectors as base64 of little-endian float32."""
        raw = np.ascontiguousarray(self.vectors, dtype="<f4").tobytes()
        return canonical(
            {"texts": list(self.texts), "dimension": self.vectors.shape[1], "vectors": base64.b64encode(raw).decode()}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Probes":
        """Read probes.

        Raises:
            ArtifactRefused: Not probes, or the vectors are not finite unit rows, one a text.
        """
        value = json_object(data, "probes.json")
        try:
            texts, dimension = value["texts"], value["dimension"]
            raw = base64.b64decode(value["vectors"], validate=True)
            vectors = np.frombuffer(raw, dtype="<f4").reshape(len(texts), dimension).astype(np.float32)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise ArtifactRefused("probes.json does not hold texts and as many vectors") from error
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ArtifactRefused("probes.json does not hold texts")
        if not np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-3):
            raise ArtifactRefused("probes.json holds vectors that are not of unit length")
        return cls(tuple(texts), vectors)
