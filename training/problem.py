"""What a fit is given: base vectors and which rows play which part, as one file without any text."""

import dataclasses
from dataclasses import MISSING, dataclass, fields

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from training.errors import FitFailed

Vectors = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LabelledProblem:
    """Rows with labels.

    Attributes:
        vectors: (u, d) float32, base vectors of the distinct texts.
        fit, select: (n,) and (m,) rows as indices into `vectors`.
        fit_labels, select_labels: Label codes of those rows, from 0.
        fit_weights: (n,) in (0, 1], how much each fitted label is believed; None: all of them fully.
        extra, extra_labels, extra_weights: (e,) as for the fit: rows made for the fit (augmented texts, pseudo-labels),
            which are learnt from and never searched among; None where there are none.
    """

    vectors: Vectors
    fit: Indices
    fit_labels: Indices
    select: Indices
    select_labels: Indices
    fit_weights: Weights | None = None
    extra: Indices | None = None
    extra_labels: Indices | None = None
    extra_weights: Weights | None = None

    @property
    def extras(self) -> int:
        """How many extra rows there are."""
        return 0 if self.extra is None else len(self.extra)

    def plain(self) -> "LabelledProblem":
        """The problem without its extra rows."""
        return dataclasses.replace(self, extra=None, extra_labels=None, extra_weights=None)

    def whole(self) -> "LabelledProblem":
        """The problem with its extra rows among those to fit."""
        if self.extra is None or self.extra_labels is None or self.extra_weights is None:
            return self
        return dataclasses.replace(
            self.plain(),
            fit=np.concatenate([self.fit, self.extra]),
            fit_labels=np.concatenate([self.fit_labels, self.extra_labels]),
            fit_weights=np.concatenate([self.weights(), self.extra_weights]),
        )

    @property
    def sure(self) -> npt.NDArray[np.bool_]:
        """(n,) which fitted labels are not doubted."""
        return self.weights() >= 1

    def weights(self) -> Weights:
        """(n,) weights of the fitted rows."""
        return np.ones(len(self.fit), np.float32) if self.fit_weights is None else self.fit_weights

    def with_extra(self, vectors: Vectors, labels: Indices, weights: Weights) -> "LabelledProblem":
        """The problem with further extra rows: base vectors (e, d) of texts that are not there yet."""
        extra = np.arange(len(self.vectors), len(self.vectors) + len(vectors), dtype=np.int64)
        if self.extra is not None and self.extra_labels is not None and self.extra_weights is not None:
            extra = np.concatenate([self.extra, extra])
            labels = np.concatenate([self.extra_labels, labels])
            weights = np.concatenate([self.extra_weights, weights])
        together = np.concatenate([self.vectors, vectors])
        return dataclasses.replace(
            self, vectors=together, extra=extra, extra_labels=labels, extra_weights=weights.astype(np.float32)
        )


@dataclass(frozen=True, eq=False)
class PairProblem:
    """Pairs of an anchor and the text that answers it, some with a text that does not.

    Attributes:
        vectors: (u, d) float32, base vectors of the distinct texts; equal texts have one index.
        fit_anchors, fit_positives, fit_negatives: (n,) indices into `vectors`; -1 where a row has no negative.
        select_anchors, select_positives: (m,) indices into `vectors`.
        extra_anchors, extra_positives: (e,) indices into `vectors`: pairs made for the fit, whose anchors are other
            wordings of fitted ones; None where there are none.
    """

    vectors: Vectors
    fit_anchors: Indices
    fit_positives: Indices
    fit_negatives: Indices
    select_anchors: Indices
    select_positives: Indices
    extra_anchors: Indices | None = None
    extra_positives: Indices | None = None

    @property
    def extras(self) -> int:
        """How many extra pairs there are."""
        return 0 if self.extra_anchors is None else len(self.extra_anchors)

    def plain(self) -> "PairProblem":
        """The problem without its extra pairs."""
        return dataclasses.replace(self, extra_anchors=None, extra_positives=None)

    def whole(self) -> "PairProblem":
        """The problem with its extra pairs among those to fit."""
        if self.extra_anchors is None or self.extra_positives is None:
            return self
        none = np.full(len(self.extra_anchors), -1, np.int64)
        return dataclasses.replace(
            self.plain(),
            fit_anchors=np.concatenate([self.fit_anchors, self.extra_anchors]),
            fit_positives=np.concatenate([self.fit_positives, self.extra_positives]),
            fit_negatives=np.concatenate([self.fit_negatives, none]),
        )

    def with_extra(self, vectors: Vectors, positives: Indices) -> "PairProblem":
        """The problem with extra pairs: base vectors (e, d) of new anchors, and their positives by text number."""
        anchors = np.arange(len(self.vectors), len(self.vectors) + len(vectors), dtype=np.int64)
        together = np.concatenate([self.vectors, vectors])
        return dataclasses.replace(self, vectors=together, extra_anchors=anchors, extra_positives=positives)


Problem = LabelledProblem | PairProblem


def to_bytes(problem: Problem) -> bytes:
    """One safetensors file."""
    arrays = {f.name: getattr(problem, f.name) for f in fields(problem)}
    return safetensors.numpy.save({name: np.ascontiguousarray(a) for name, a in arrays.items() if a is not None})


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
        known = {f.name for f in fields(kind)}
        needed = {f.name for f in fields(kind) if f.default is MISSING}
        if needed <= arrays.keys() <= known:
            return kind(**arrays)
    raise FitFailed("the fit's input is of no known kind; queue the retrain again")
