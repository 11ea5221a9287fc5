"""The model of a bulk run: a backbone, perhaps with a version of an adapter, and what identifies it in files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from encoder.adapters import Head
from encoder.encoder import Encoder
from encoder.lora import Lora

Vectors = npt.NDArray[np.float32]

PIECE = 512
"""Rows a head computes at once: a wider layer's output stays in the cache."""


@dataclass(frozen=True, slots=True)
class Model:
    """What turns token ids into vectors.

    Attributes:
        name: As files name it: the backbone's name, or an adapter's with the number, such as `banking@7`.
        encoder: The backbone.
        head, lora: The version; at most one of the two, neither for the bare backbone.
    """

    name: str
    encoder: Encoder
    head: Head | None = None
    lora: Lora | None = None

    @property
    def kind(self) -> str:
        """ "backbone", "head" or "lora"."""
        if self.lora is not None:
            return "lora"
        return "backbone" if self.head is None else "head"

    @property
    def version(self) -> str | None:
        """Digest of the version; None for the bare backbone."""
        version = self.lora or self.head
        return None if version is None else version.digest

    @property
    def dimension(self) -> int:
        """Width of its vectors."""
        return self.encoder.manifest.dimension

    @property
    def streams(self) -> int:
        """Runs that should be under way at once."""
        return self.encoder.session.streams

    def run(self, ids: Sequence[Sequence[int]]) -> Vectors:
        """Vectors (b, d) float32 of one batch of token ids, as the runtime gives them: base vectors, or a LoRA's."""
        if self.lora is None:
            return self.encoder.run(ids)
        return self.encoder.forward_adapted(ids, [self.lora] * len(ids))

    def finish(self, base: Vectors) -> Vectors:
        """Vectors (n, d) float32 of the version for what `run` gave; the same array where there is no head."""
        return base if self.head is None else apply_head(self.head, base)


class OpenModel(Protocol):
    """Opens the model of a run, perhaps in another process: it must be picklable for the ray engine."""

    def __call__(self, pinned: tuple[str, str] | None) -> Model:
        """The model, on this provider and in this precision; None leaves both to what was asked for."""
        ...


def apply_head(head: Head, base: Vectors) -> Vectors:
    """Vectors (n, d) float32 of base vectors (n, d) float32, computed piece by piece."""
    vectors = np.empty_like(base)
    for row in range(0, len(base), PIECE):
        vectors[row : row + PIECE] = head.apply(base[row : row + PIECE])
    return vectors
