"""What a fit is given: base vectors and which rows play which part, as one file without any text."""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from training.errors import FitFailed

Vectors = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LabelledProblem:
    """Rows with labels.

    Attributes:
        vectors: (u, d) float32, base vectors of the distinct texts.
        fit, select: (n,) and (m,) rows as indices into `vectors`.
        fit_labels, select_labels: Label codes of those rows, from 0.
    """

    vectors: Vectors
    fit: Indices
    fit_labels: Indices
    select: Indices
    select_labels: Indices


@dataclass(frozen=True, eq=False)
class PairProblem:
    """Pairs of an anchor and the text that answers it, some with a text that does not.

    Attributes:
        vectors: (u, d) float32, base vectors of the distinct texts; equal texts have one index.
        fit_anchors, fit_positives, fit_negatives: (n,) indices into `vectors`; -1 where a row has no negative.
        select_anchors, select_positives: (m,) indices into `vectors`.
    """

    vectors: Vectors
    fit_anchors: Indices
    fit_positives: Indices
    fit_negatives: Indices
    select_anchors: Indices
    select_positives: Indices


Problem = LabelledProblem | PairProblem


def to_bytes(problem: Problem) -> bytes:
    """One safetensors file."""
    return safetensors.numpy.save({f.name: np.ascontiguousarray(getattr(problem, f.name)) for f in fields(problem)})


def from_bytes(data: bytes) -> Problem:
    """Read a problem; its kind shows in the names of its arrays.

    Raises:
        FitFailed: Neither kind.
    """
    try:
        arrays = safetensors.numpy.load(data)
    except SafetensorError as error:
        raise FitFailed("the fit's input cannot be read; queue the retrain again") from error
    for kind in (LabelledProblem, PairProblem):
        if arrays.keys() == {f.name for f in fields(kind)}:
            return kind(**arrays)
    raise FitFailed("the fit's input is of no known kind; queue the retrain again")
