"""The words of the runtime: execution providers, precisions, how a session is arranged, what a candidate showed."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from encoder.errors import NoProvider

Vectors = npt.NDArray[np.float32]

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


BATCH_TOLERANCE = {Precision.FP32: 1e-5, Precision.TF32: 2e-3, Precision.BF16: 2e-3, Precision.INT8: 5e-3}
"""How much a component of a text's vector may differ with the batch it is computed in. Another place in a row
changes the order of sums; in int8 a number beside the edge of two levels then falls to the other side. Measured on the
default backbone (fp32 3e-7, bf16 6e-4, int8 2e-3) and rounded up."""


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How a session uses the cores, and how fast it was so.

    Attributes:
        threads: Threads of all runs together.
        streams: Runs that were under way at once.
        spinning: Whether idle threads of the runtime waited busily.
        texts_per_second: Speed on small batches of short texts, with so many runs under way.
        milliseconds: Time of a lone run of one short text.
    """

    threads: int
    streams: int
    spinning: bool
    texts_per_second: float
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one candidate showed at this start.

    Attributes:
        provider, precision: The candidate.
        min_cosine: Smallest cosine to the manifest's probe vectors; None if it did not run.
        retrieval: nDCG@10 on the retrieval probe, in points of 100; None where it was not scored, because there is no
            probe or the vectors are float32's to rounding.
        arrangement: The best way to use the cores that was found; None if its speed was not measured.
        tried: Every arrangement that was timed.
        chosen: Whether it serves.
        error: Why it was left out, if it was.
    """

    provider: Provider
    precision: Precision
    min_cosine: float | None = None
    retrieval: float | None = None
    arrangement: Arrangement | None = None
    tried: tuple[Arrangement, ...] = ()
    chosen: bool = False
    error: str | None = None

    @property
    def texts_per_second(self) -> float:
        """Speed of the best arrangement; 0 if it was not measured."""
        return self.arrangement.texts_per_second if self.arrangement is not None else 0.0


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
