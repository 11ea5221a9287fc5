"""Watching a fit: the shape of the adapted vectors at each evaluation, the loss on unseen rows, and collapse.

Where generic texts are given, a collapse is judged on them by the gate's own limits. The rows of the fit are judged by
one number alone, the mean cosine of foreign rows: labels rightly lower their rank and pull rows of one label together.

Whatever the number of rows, a measurement adapts at most 2 * MAX_QUERIES + MAX_INDEX of them, and a look for a collapse
at most 3 * MAX_QUERIES. Thirteen of each are 60,000 rows, next to the 737,000 that the 240 steps of the default recipe
adapt, a backward pass counted as two forward ones.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from monitoring.collapse import GeometryLimits, geometry_reasons
from monitoring.geometry import effective_rank, mean_random_pair_cosine, uniformity
from training.fit_measures import (
    margin_measures,
    nearest,
    neighbor_measures,
    prototype_measures,
    shaken,
    some,
)
from training.problem import Indices, LabelledProblem, Problem, Vectors
from training.selection import Apply

MAX_QUERIES: Final = 512
MAX_INDEX: Final = 2_048


class Watch:
    """Measures heads of one problem, always on the same rows.

    Args:
        problem: The rows; those of the selection split against those of the fit.
        temperature: Of the loss that is measured.
        limits: Of the gate, for collapse.
        generic: (g, d) float32 base vectors of texts that have nothing to do with the fit; None where there are none.
    """

    def __init__(
        self, problem: Problem, temperature: float, limits: GeometryLimits, generic: Vectors | None = None
    ) -> None:
        # How far neighbourhoods may move is for the gate to say: it is a change, and no collapse.
        self._temperature, self._limits = temperature, replace(limits, min_overlap=0.0)
        self._generic = None if generic is None else generic[:MAX_QUERIES]
        if isinstance(problem, LabelledProblem):
            asked, rows = some(len(problem.select), MAX_QUERIES), some(len(problem.fit), MAX_INDEX)
            queries, index = problem.select[asked], problem.fit[rows]
            self._labels: tuple[Indices, Indices] | None = (problem.fit_labels[rows], problem.select_labels[asked])
            self._own = problem.select_labels[asked][:, None] == problem.fit_labels[rows]
        else:
            asked = some(len(problem.select_anchors), MAX_QUERIES)
            queries, index = problem.select_anchors[asked], problem.select_positives[asked]
            self._labels = None
            self._own = (queries[:, None] == queries) | (index[:, None] == index)
        self._queries, self._index = problem.vectors[queries], problem.vectors[index]
        # A text on both sides says nothing about either.
        self._counted = queries[:, None] != index
        self._own = self._own & self._counted
        self._foreign = self._counted & ~self._own
        self._shaken = shaken(self._queries)
        self._near = nearest(self._cosines(lambda vectors: vectors), self._counted)
        self._probed = some(len(self._index), MAX_QUERIES)
        self._base = self.measure(lambda vectors: vectors)
        self._base_foreign = self._foreign_cosine(lambda vectors: vectors)

    @property
    def base(self) -> Mapping[str, float]:
        """The measures of the base vectors."""
        return self._base

    def measure(self, apply: Apply) -> dict[str, float]:
        """The shape of the selection rows as the head `apply` adapts them, and the loss there.

        Returns:
            alignment: mean squared distance of a row to those of its kind (Wang and Isola, ICML 2020, section 4.1.1).
            uniformity, effective_rank, mean_pair_cosine: of the selection rows; see monitoring/geometry.py.
            foreign_cosine: mean cosine to rows of other kinds.
            loss: mean of -log of the own rows' share of exp(cosine / temperature), the soft nearest neighbour loss
                (Frosst et al. 2019, arXiv 1902.01889, equation 1).
            stability: mean cosine of a selection row before and after noise on its base vector (`shaken`).
            Margins, prototypes and neighbourhoods: as `margin_measures`, `prototype_measures` and `neighbor_measures`.
            Values that cannot be measured (a single row, no own or no foreign row, prototypes of pairs) are NaN.
        """
        queries, index = apply(self._queries), apply(self._index)
        cosines = (queries @ index.T).astype(np.float64)
        prototypes = {"prototype_nearest": float("nan"), "prototype_own": float("nan")}
        if self._labels is not None:
            index_labels, labels = self._labels
            prototypes = prototype_measures(index, index_labels, queries, labels)
        return {
            "alignment": _mean(2 - 2 * cosines[self._own]),
            "uniformity": uniformity(queries),
            "effective_rank": effective_rank(queries),
            "mean_pair_cosine": mean_random_pair_cosine(queries),
            "foreign_cosine": _mean(cosines[self._foreign]),
            "loss": self._loss(cosines / self._temperature),
            "stability": _mean(np.sum(queries * apply(self._shaken), axis=1, dtype=np.float64)),
            **prototypes,
            **margin_measures(cosines, self._own, self._foreign),
            **neighbor_measures(nearest(cosines, self._counted), self._near, self._own),
        }

    def collapse(self, apply: Apply) -> list[str]:
        """Why the head counts as collapsed, in words; empty where it does not."""
        words: list[str] = []
        limit = min(0.99, self._base_foreign + self._limits.max_cosine_rise)
        found = self._foreign_cosine(apply)
        if found > limit:
            words.append(
                f"texts of different kinds have a mean cosine of {found:.2f} (base {self._base_foreign:.2f}); "
                f"at most {limit:.2f} is allowed"
            )
        if self._generic is not None:
            collapsed, reasons, _ = geometry_reasons(apply(self._generic), self._generic, self._limits)
            words += [reason.text for reason in reasons if collapsed]
        return words

    def _cosines(self, apply: Apply) -> npt.NDArray[np.float64]:
        return (apply(self._queries) @ apply(self._index).T).astype(np.float64)

    def _foreign_cosine(self, apply: Apply) -> float:
        """Mean cosine of the queries to foreign rows, of at most MAX_QUERIES of the index."""
        cosines = apply(self._queries) @ apply(self._index[self._probed]).T
        return _mean(cosines.astype(np.float64)[self._foreign[:, self._probed]])

    def _loss(self, logits: npt.NDArray[np.float64]) -> float:
        able = self._own.any(axis=1)
        if not able.any():
            return float("nan")
        own = _log_sum(np.where(self._own, logits, -np.inf)[able])
        return float(np.mean(_log_sum(np.where(self._counted, logits, -np.inf)[able]) - own))


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _log_sum(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """log of the sum of exponentials of each row; each row has a finite value."""
    top = logits.max(axis=1, keepdims=True)
    return np.asarray(top[:, 0] + np.log(np.exp(logits - top).sum(axis=1)), dtype=np.float64)
