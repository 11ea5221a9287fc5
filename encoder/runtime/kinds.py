"""The words of the runtime: execution providers, precisions, how a session is arranged, what a candidate showed."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from encoder.errors import NoProvider

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Feed = tuple[Ids, Ids]
"""Token ids and attention mask of one batch, both (b, t) int64."""

Kind = TypeVar("Kind", bound=StrEnum)


class Provider(StrEnum):
    """Execution providers this service knows."""

    CPU = "cpu"
    OPENVINO = "openvino"
    CUDA = "cuda"


class Precision(StrEnum):
    """Number format of the matrix products. Only int8 has weights of its own; vectors are float32 in every one."""

    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one candidate showed.

    Attributes:
        provider, precision: The candidate.
        texts_per_second: Speed on a batch of short probe texts; 0 if it was not measured.
        min_cosine: Smallest cosine to the manifest's probe vectors; None if it did not run.
        chosen: Whether it serves.
        error: Why it was left out, if it was.
    """

    provider: Provider
    precision: Precision
    texts_per_second: float = 0.0
    min_cosine: float | None = None
    chosen: bool = False
    error: str | None = None


def known(kind: type[Kind], value: str) -> Kind:
    """The member of an enumeration with this value.

    Raises:
        NoProvider: There is none; names those there are.
    """
    try:
        return kind(value)
    except ValueError as error:
        names = ", ".join(kind)
        raise NoProvider(f"{value!r} is not a known {kind.__name__.lower()}; known are auto, {names}") from error


def first_line(error: BaseException) -> str:
    """What an exception says in its first line, at most 300 characters."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
