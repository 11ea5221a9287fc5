"""What a step of a fit minimises: the loss of one batch, its negatives, and the penalties that the recipe asks for."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from monitoring.recipe import Recipe
from training.batches import labelled_batches, pair_batches
from training.feature_views import feature_views
from training.losses import hard_labels, hard_pairs, identity_penalty, info_nce, supcon, triplet
from training.modules import ResidualHead
from training.negatives import Miner
from training.problem import Indices, LabelledProblem, PairProblem, Problem, Vectors
from training.regularisers import covariance, distillation, spread_out
from training.temperature import Temperature

REPLAYED = 256
"""Replayed texts of a step."""


class Objective:
    """Gives the loss of one step after the other, each on a fresh batch.

    Args:
        problem: The rows; extra ones are fitted like the others.
        recipe: Resolved.
        head: Adapts the vectors, as it is when a loss is asked for.
        temperature: Of the loss.
        replay: (r, d) float32 base vectors of texts that have nothing to do with the fit; None where there are none.
    """

    def __init__(
        self, problem: Problem, recipe: Recipe, head: ResidualHead, temperature: Temperature, replay: Vectors | None
    ) -> None:
        problem = problem.whole()
        self._recipe, self._head, self._temperature = recipe, head, temperature
        self._rng = np.random.default_rng(recipe.seed)
        self._vectors = torch.from_numpy(problem.vectors)
        self._replay = None if replay is None or not recipe.replay else torch.from_numpy(replay)
        self._miner = Miner(problem, recipe, self._rng) if recipe.hard_negatives else None
        self._batches: Iterator[Indices]
        self._of_batch: Callable[[Indices, float | Tensor, Indices], Tensor]
        if isinstance(problem, LabelledProblem):
            self._batches = labelled_batches(problem.fit_labels, recipe.batch_size, self._rng, problem.fit)
            self._of_batch = _Labelled(problem, recipe, self._adapt)
        else:
            self._batches = pair_batches(problem.fit_anchors, problem.fit_positives, recipe.batch_size, self._rng)
            self._of_batch = _Paired(problem, recipe, self._adapt)

    def loss(self, step: int) -> Tensor:
        """The scalar to minimise in a step, counted from 1."""
        batch = next(self._batches)
        mined = np.zeros(0, np.int64)
        if self._miner is not None:
            if (step - 1) % self._recipe.refresh == 0:
                self._miner.refresh(self._head.weights().apply(self._vectors.numpy()))
            mined = self._miner.draw(batch, (step - 1) / max(1, self._recipe.steps - 1))
        loss = self._of_batch(batch, self._temperature.at(step), mined)
        if self._replay is not None:
            drawn = self._rng.choice(len(self._replay), min(REPLAYED, len(self._replay)), replace=False)
            base = self._replay[torch.from_numpy(drawn)]
            loss = loss + self._recipe.replay * distillation(self._head(base), base)
        return loss

    def _adapt(self, texts: Indices) -> tuple[Tensor, Tensor]:
        base = self._vectors[torch.from_numpy(texts)]
        share = self._recipe.feature_dropout
        return base, self._head(feature_views(base, share) if share else base)


_Adapt = Callable[[Indices], tuple[Tensor, Tensor]]


class _Labelled:
    """The loss of a batch of labelled rows; mined rows join it with their labels."""

    def __init__(self, problem: LabelledProblem, recipe: Recipe, adapt: _Adapt) -> None:
        self._problem, self._recipe, self._adapt = problem, recipe, adapt
        self._weights = None if problem.fit_weights is None else torch.from_numpy(problem.fit_weights)

    def __call__(self, batch: Indices, temperature: float | Tensor, mined: Indices) -> Tensor:
        recipe, rows = self._recipe, np.concatenate([batch, mined])
        base, adapted = self._adapt(self._problem.fit[rows])
        labels = torch.from_numpy(self._problem.fit_labels[rows])
        weights = None if self._weights is None else self._weights[torch.from_numpy(rows)]
        if recipe.loss == "triplet":
            loss = triplet(adapted, labels, recipe.margin, weights)
        elif recipe.loss == "debiased":
            loss = hard_labels(adapted, labels, temperature, weights, prior=recipe.prior, hardness=recipe.hardness)
        else:
            loss = supcon(adapted, labels, temperature, weights)
        return loss + penalties(recipe, adapted, base, labels[:, None] != labels)


class _Paired:
    """The loss of a batch of pairs; given and mined negatives are candidates for every anchor."""

    def __init__(self, problem: PairProblem, recipe: Recipe, adapt: _Adapt) -> None:
        self._problem, self._recipe, self._adapt = problem, recipe, adapt

    def __call__(self, batch: Indices, temperature: float | Tensor, mined: Indices) -> Tensor:
        problem, recipe = self._problem, self._recipe
        given = problem.fit_negatives[batch]
        texts = [problem.fit_anchors[batch], problem.fit_positives[batch], np.concatenate([given[given >= 0], mined])]
        base, adapted = self._adapt(np.concatenate(texts))
        anchors, positives, negatives = torch.split(adapted, [len(part) for part in texts])
        ids = [torch.from_numpy(part) for part in texts]
        named = {"anchor_ids": ids[0], "positive_ids": ids[1], "negatives": negatives, "negative_ids": ids[2]}
        if recipe.loss == "debiased":
            loss = hard_pairs(anchors, positives, temperature, **named, prior=recipe.prior, hardness=recipe.hardness)
        else:
            loss = info_nce(anchors, positives, temperature, **named)
        foreign = torch.zeros((len(adapted), len(adapted)), dtype=torch.bool)
        n = len(batch)
        foreign[:n, n : 2 * n] = (ids[0][:, None] != ids[0]) & (ids[1][:, None] != ids[1])
        return loss + penalties(recipe, adapted, base, foreign)


def penalties(recipe: Recipe, adapted: Tensor, base: Tensor, foreign: Tensor) -> Tensor:
    """The weighted penalties of a batch (n, d) whose `foreign` (n, n) pairs of rows are of different kinds."""
    total = recipe.identity * identity_penalty(adapted, base)
    if recipe.spread:
        total = total + recipe.spread * spread_out(adapted, foreign)
    if recipe.covariance:
        total = total + recipe.covariance * covariance(adapted)
    return total
