"""The weights of a residual head as arrays: stored as safetensors, applied without torch."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError
from scipy.special import erf

from training.errors import FitFailed

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """`z = normalise(x + out(inner(x * sqrt(d))))`, with `inner` one of three shapes.

    An mlp has `gelu(hidden(.))`; a low-rank residual has `hidden(.)` without bias; a linear one leaves it out. The
    factor sqrt(d) brings the components of a unit vector to unit size, which is what layers are initialised for.

    Attributes:
        out_weight: (d, h) float32, or (d, d) where there is no hidden layer.
        out_bias: (d,) float32.
        hidden_weight: (h, d) float32, or None in a linear residual.
        hidden_bias: (h,) float32 in an mlp, else None.
    """

    out_weight: Array
    out_bias: Array
    hidden_weight: Array | None = None
    hidden_bias: Array | None = None

    @property
    def dimension(self) -> int:
        """Width of input and output."""
        return len(self.out_bias)

    def apply(self, base: Array) -> Array:
        """Adapted vectors: (n, d) float32 unit rows to (n, d) float32 unit rows."""
        inner = base * np.float32(math.sqrt(self.dimension))
        if self.hidden_weight is not None:
            inner = inner @ self.hidden_weight.T
        if self.hidden_bias is not None:
            inner = inner + self.hidden_bias
            inner = inner * np.float32(0.5) * (1 + erf(inner * np.float32(math.sqrt(0.5))))
        moved = base + inner @ self.out_weight.T + self.out_bias
        norms = np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), np.float32(1e-12))
        return np.asarray(moved / norms, dtype=np.float32)

    def scaled(self, alpha: float) -> "HeadWeights":
        """The head with its residual multiplied by alpha: 0 is the base, 1 this head, exactly interpolated between."""
        factor = np.float32(alpha)
        return HeadWeights(self.out_weight * factor, self.out_bias * factor, self.hidden_weight, self.hidden_bias)

    def to_bytes(self) -> bytes:
        """One safetensors file."""
        tensors = {"out.weight": self.out_weight, "out.bias": self.out_bias}
        if self.hidden_weight is not None:
            tensors["hidden.weight"] = self.hidden_weight
        if self.hidden_bias is not None:
            tensors["hidden.bias"] = self.hidden_bias
        return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in tensors.items()})

    @classmethod
    def from_bytes(cls, data: bytes) -> "HeadWeights":
        """Read weights.

        Raises:
            FitFailed: Not the weights of a head, or values that are not finite.
        """
        try:
            tensors = safetensors.numpy.load(data)
            weights = cls(
                tensors["out.weight"], tensors["out.bias"], tensors.get("hidden.weight"), tensors.get("hidden.bias")
            )
        except (SafetensorError, KeyError) as error:
            raise FitFailed("the fitted weights cannot be read; queue the retrain again") from error
        if not all(np.isfinite(array).all() for array in tensors.values()):
            raise FitFailed(
                "the fitted weights are not finite numbers; lower learning_rate or raise temperature in the recipe"
            )
        return weights
