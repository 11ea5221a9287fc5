"""Fitting a head with what was added to its rows, and without: what adds nothing on the selection rows is left out.

Three things may be added: rows whose label is doubted (training/weak.py), other wordings (training/augment.py), and
pseudo-labels of unlabelled texts (training/pseudo.py). Each is one more fit, of a few seconds, and stays where the
selection score is no lower with it. The report says for each what it was and the score with and without.
"""

import dataclasses
import time
from typing import Any, Final

import numpy as np

from monitoring.recipe import Recipe
from training.errors import FitFailed
from training.fit import Fitted, Progress, fit_head
from training.problem import LabelledProblem, Problem, Vectors
from training.pseudo import pseudo_labels
from training.weak import doubted, without_doubted

MAX_REPLAYED: Final = 2_000
"""Unlabelled texts that are replayed at most."""
_LEAST_S: Final = 1.0


def fit_with_extra(
    problem: Problem,
    recipe: Recipe,
    progress: Progress,
    *,
    pool: Vectors | None = None,
    generic: Vectors | None = None,
) -> Fitted:
    """`fit_head`, with each addition that does not lower the selection score.

    Args:
        problem: Rows, with doubted ones and wordings where there are some.
        recipe: Resolved. All fits together take `time_budget_s` at most; an addition for which no time is left is left
            out. With `refit` only the kept one is fitted once more.
        progress: As for `fit_head`; steps count on from fit to fit.
        pool: (p, d) float32 base vectors of unlabelled texts, for pseudo-labels.
        generic: As for `fit_head`. Where the recipe replays, texts of the pool that were not taken are replayed too.

    Returns:
        The kept head. Its report has a section `extra` where there was anything to add: by name what was added, the
        selection score `without` and `with` it, and whether it was `kept`.

    Raises:
        FitFailed: The fit without additions failed.
    """
    sure = without_doubted(problem) if isinstance(problem, LabelledProblem) else None
    some = pool is not None and len(pool) > 0 and isinstance(problem, LabelledProblem)
    if sure is None and problem.extras == 0 and not some:
        return fit_head(problem, recipe, progress, generic=generic)
    fits = 1 + (sure is not None) + (problem.extras > 0) + some + bool(recipe.refit)
    trial = _Trial((sure or problem).plain(), _Fits(recipe, progress, generic, fits))
    if sure is not None and isinstance(problem, LabelledProblem):
        trial.add("weak_labels", problem.plain(), doubted(problem))
    if problem.extras:
        believed = sure is None or trial.extra["weak_labels"]["kept"]
        trial.add("augmented", problem if believed else sure or problem, {"rows": problem.extras})
    if some and pool is not None:
        trial.guess(pool, recipe)
    best = trial.fits.fit(trial.problem, refit=True) if recipe.refit else trial.best
    return Fitted(best.weights, best.report | {"extra": trial.extra}, best.scored)


class _Fits:
    """Fits one after the other within one budget of time, as one course of steps to whoever is told."""

    def __init__(self, recipe: Recipe, progress: Progress, generic: Vectors | None, fits: int) -> None:
        self.replay: Vectors | None = None
        self._recipe, self._progress, self._generic = recipe, progress, generic
        self._fits, self._done, self._started = fits, 0, time.monotonic()

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self._recipe.time_budget_s - (time.monotonic() - self._started)

    def fit(self, problem: Problem, *, refit: bool = False) -> Fitted:
        """One fit. Raises FitFailed."""
        recipe = dataclasses.replace(self._recipe, refit=refit, time_budget_s=max(_LEAST_S, self.left_s))
        before = self._done * recipe.steps
        self._done += 1

        def tell(told: dict[str, Any]) -> None:
            self._progress({**told, "step": before + told["step"], "steps": self._fits * recipe.steps})

        return fit_head(problem, recipe, tell, replay=self.replay, generic=self._generic)


class _Trial:
    """The best fit so far, and what is known of each addition."""

    def __init__(self, problem: Problem, fits: _Fits) -> None:
        self.problem, self.fits = problem, fits
        self.best = fits.fit(problem)
        self.extra: dict[str, Any] = {}

    def add(self, name: str, candidate: Problem, facts: dict[str, Any]) -> None:
        """Fit with an addition, and keep it where the selection score is no lower."""
        without = self.best.report["select_score"]
        told = self.extra[name] = {**facts, "without": without, "with": None, "kept": False}
        if self.fits.left_s < max(_LEAST_S, self.best.report["seconds"]):
            told["why"] = "no time was left to fit with it"
            return
        try:
            found = self.fits.fit(candidate)
        except FitFailed as error:
            told["why"] = str(error)
            return
        score = found.report["select_score"]
        told |= {"with": score, "kept": score >= without}
        if score >= without:
            self.problem, self.best = candidate, found

    def guess(self, pool: Vectors, recipe: Recipe) -> None:
        """Try pseudo-labels of these texts; those that are not taken are replayed where the recipe replays."""
        if not isinstance(self.problem, LabelledProblem):
            raise ValueError("pairs have no labels to guess")
        found = pseudo_labels(
            self.problem, pool, lambda vectors: vectors, threshold=recipe.pseudo_confidence, cap=recipe.pseudo_cap
        )
        left = np.delete(pool, found.rows, axis=0)[:MAX_REPLAYED]
        if recipe.replay:
            self.fits.replay = left
        facts = found.report | {"replayed": len(left) if recipe.replay else 0}
        self.add("pseudo_labels", self.problem.with_extra(pool[found.rows], found.labels, found.weights), facts)
