"""Hard negatives: foreign texts that are near an anchor under the head as it is, searched anew as the head moves.

What is nearest of all is often no negative but an answer or a label that nobody wrote down, so that texts almost as
near as the anchor's positive are left out: TopK-PercPos of Moreira et al. 2024 (arXiv 2407.15831, section 3.1). A fit
begins with the easy end of what is left and ends with the hard end, and some negatives are always drawn at random.
"""

import numpy as np
import numpy.typing as npt

from monitoring.recipe import Recipe
from monitoring.search import FlatIndex
from training.problem import Indices, LabelledProblem, PairProblem, Problem, Vectors

MAX_CORPUS = 8_192
"""Texts that are searched at most: a sample that changes with each refresh keeps a step short."""
MAX_ANCHORS = 256
SEARCHED = 256
DEPTH = 64
"""Negatives of an anchor among which the curriculum moves, of the SEARCHED nearest texts."""


class Miner:
    """Draws negatives for batches of one problem.

    Args:
        problem: The rows.
        recipe: hard_negatives (of each anchor), positive_share, random_share and batch_size are used.
        rng: Source of randomness.
    """

    def __init__(self, problem: Problem, recipe: Recipe, rng: np.random.Generator) -> None:
        self._problem, self._recipe, self._rng = problem, recipe, rng
        if isinstance(problem, LabelledProblem):
            self._texts, self._rows = np.unique(problem.fit, return_index=True)
        else:
            given = problem.fit_negatives[problem.fit_negatives >= 0]
            self._texts = np.unique(np.concatenate([problem.fit_positives, given]))
            # Each pair of an anchor and its answer as one number, to look up what answers an anchor.
            self._answers = np.unique(problem.fit_anchors * len(problem.vectors) + problem.fit_positives)
        self._places: Indices = np.zeros(0, np.int64)
        self._index: FlatIndex | None = None
        self._vectors: Vectors = problem.vectors

    def refresh(self, vectors: Vectors) -> None:
        """Search among these vectors (u, d) float32, the problem's as the head adapts them, from now on."""
        size = min(MAX_CORPUS, len(self._texts))
        self._places = np.sort(self._rng.choice(len(self._texts), size, replace=False)).astype(np.int64)
        self._vectors = vectors
        self._index = FlatIndex(np.ascontiguousarray(vectors[self._texts[self._places]]))

    def draw(self, batch: Indices, progress: float) -> Indices:
        """Negatives for a batch, without repeats and none of them of the batch itself.

        At most MAX_ANCHORS of its rows, and so many that the negatives are at most half a batch, are looked up.

        Args:
            batch: (b,) rows of the fit.
            progress: Share of the fit that is done, in [0, 1].

        Returns:
            (k,) rows of the fit for labels, text numbers for pairs.

        Raises:
            RuntimeError: There was no refresh yet.
        """
        if self._index is None:
            raise RuntimeError("refresh must be called first")
        wanted = self._recipe.hard_negatives
        most = min(MAX_ANCHORS, max(1, self._recipe.batch_size // (2 * wanted)), len(batch))
        asked = self._rng.choice(batch, most, replace=False)
        texts, positive = self._anchors(asked, batch)
        _, near = self._index.search(np.ascontiguousarray(self._vectors[texts]), min(SEARCHED, len(self._places)))
        chance = self._rng.integers(0, len(self._places), (most, 2 * wanted))
        found: list[Indices] = []
        for i, row in enumerate(asked):
            hard = self._allowed(int(row), int(texts[i]), positive[i], near[i])[:DEPTH]
            random = self._allowed(int(row), int(texts[i]), positive[i], chance[i])
            at_random = int(np.ceil(self._recipe.random_share * wanted))
            hard = graded(hard, wanted - at_random, progress, self._rng)
            found += [hard, random[: wanted - len(hard)]]
        places = np.unique(np.concatenate(found))
        if isinstance(self._problem, LabelledProblem):
            kept = places[~np.isin(self._texts[places], self._problem.fit[batch])]
            return self._rows[kept].astype(np.int64)
        used = np.concatenate([self._problem.fit_anchors[batch], self._problem.fit_positives[batch]])
        return np.setdiff1d(self._texts[places], used)

    def _anchors(self, asked: Indices, batch: Indices) -> tuple[Indices, npt.NDArray[np.float32]]:
        """Texts of the anchors and the cosine to their positive: with labels, to the nearest one in the batch."""
        problem = self._problem
        if isinstance(problem, PairProblem):
            anchors, positives = problem.fit_anchors[asked], problem.fit_positives[asked]
            return anchors, np.einsum("nd,nd->n", self._vectors[anchors], self._vectors[positives])
        cosines = self._vectors[problem.fit[asked]] @ self._vectors[problem.fit[batch]].T
        own = problem.fit_labels[asked][:, None] == problem.fit_labels[batch]
        own &= problem.fit[asked][:, None] != problem.fit[batch]
        return problem.fit[asked], np.where(own, cosines, -np.inf).max(axis=1)

    def _allowed(self, row: int, text: int, positive: np.float32, near: Indices) -> Indices:
        """Of the places `near` in the index, as places among all texts: those that may be negatives, in their order."""
        places = self._places[near]
        texts = self._texts[places]
        cosines = self._vectors[texts] @ self._vectors[text]
        allowed = (cosines < too_near(float(positive), self._recipe.positive_share)) & (texts != text)
        if isinstance(self._problem, LabelledProblem):
            allowed &= self._problem.fit_labels[self._rows[places]] != self._problem.fit_labels[row]
        else:
            allowed &= ~np.isin(text * len(self._problem.vectors) + texts, self._answers)
        kept: Indices = places[allowed]
        return kept


def too_near(positive: float, share: float) -> float:
    """The cosine from which a text is no safe negative: a share of the positive's, or as far below it if that is < 0.

    An anchor without a positive (minus infinity) has no safe negative.
    """
    return positive if np.isinf(positive) else positive - (1 - share) * abs(positive)


def graded(candidates: Indices, wanted: int, progress: float, rng: np.random.Generator) -> Indices:
    """`wanted` of the candidates, hardest first, drawn from a window that moves from their end to their beginning.

    The window is four times as wide as what is wanted. Bengio et al. 2009, "Curriculum learning", section 2.

    Args:
        candidates: (c,), the hardest first.
        wanted: At least 0; fewer candidates are all taken.
        progress: In [0, 1]; 0 draws from the easy end, 1 from the hard end.
        rng: Source of randomness.
    """
    width = min(len(candidates), 4 * wanted)
    start = round((1 - progress) * (len(candidates) - width))
    window = candidates[start : start + width]
    return np.asarray(rng.choice(window, min(wanted, width), replace=False), dtype=np.int64)
