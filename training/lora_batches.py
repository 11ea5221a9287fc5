"""What a step of a LoRA fit runs on: the distinct texts of a batch, and the loss over their vectors.

A text that stands in several rows of a batch is run once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from training.batches import Indices, labelled_batches, shuffled_batches
from training.lora_settings import LoraSettings
from training.losses import identity_penalty, info_nce, supcon
from training.problem import LabelledProblem, PairProblem, Problem, Weights

_TEMPERATURE = {LabelledProblem: 0.1, PairProblem: 0.05}


@dataclass(frozen=True, eq=False)
class Step:
    """One step's work.

    Attributes:
        texts: (k,) int64, the distinct texts of the batch.
        loss: Takes their vectors (k, d) float32 and gives a scalar.
    """

    texts: Indices
    loss: Callable[[Tensor], Tensor]


def rows_to_fit(problem: Problem) -> int:
    """Rows of the fit split."""
    return len(problem.fit if isinstance(problem, LabelledProblem) else problem.fit_anchors)


def rows_to_select(problem: Problem) -> int:
    """Rows of the selection split."""
    return len(problem.select if isinstance(problem, LabelledProblem) else problem.select_anchors)


def temperature_of(problem: Problem, settings: LoraSettings) -> float:
    """The loss's temperature, where the settings leave it open what suits the kind of rows."""
    return _TEMPERATURE[type(problem)] if settings.temperature is None else settings.temperature


def steps_of(problem: Problem, settings: LoraSettings, device: torch.device) -> Iterator[Step]:
    """Endless steps, the same ones for the same problem and seed: SupCon for labels, InfoNCE for pairs.

    Args:
        problem: Its vectors are those of the backbone, to which `identity` holds the fit.
        settings: How to fit.
        device: Where the vectors are that the losses take.
    """
    rng = np.random.default_rng(settings.seed)
    temperature = temperature_of(problem, settings)
    base = torch.from_numpy(problem.vectors)

    def held(loss: Callable[[Tensor], Tensor], texts: Indices) -> Step:
        if not settings.identity:
            return Step(texts, loss)
        own = base[texts].to(device)
        return Step(texts, lambda vectors: loss(vectors) + settings.identity * identity_penalty(vectors, own))

    if isinstance(problem, LabelledProblem):
        for rows in labelled_batches(problem.fit_labels, settings.batch_size, rng):
            texts, places = np.unique(problem.fit[rows], return_inverse=True)
            weights = None if problem.fit_weights is None else problem.fit_weights[rows]
            yield held(_labelled(problem.fit_labels[rows], weights, places, temperature, device), texts)
    else:
        for rows in shuffled_batches(len(problem.fit_anchors), settings.batch_size, rng):
            given = problem.fit_negatives[rows]
            parts = [problem.fit_anchors[rows], problem.fit_positives[rows], given[given >= 0]]
            texts, places = np.unique(np.concatenate(parts), return_inverse=True)
            yield held(_paired(parts, places, temperature, device), texts)


def _labelled(
    labels: Indices, weights: Weights | None, places: Indices, temperature: float, device: torch.device
) -> Callable[[Tensor], Tensor]:
    codes, at = torch.from_numpy(labels).to(device), torch.from_numpy(places).to(device)
    believed = None if weights is None else torch.from_numpy(weights).to(device)
    return lambda vectors: supcon(vectors[at], codes, temperature, believed)


def _paired(
    parts: list[Indices], places: Indices, temperature: float, device: torch.device
) -> Callable[[Tensor], Tensor]:
    anchors, positives, negatives = (torch.from_numpy(part).to(device) for part in parts)
    at = torch.from_numpy(places).to(device)

    def loss(vectors: Tensor) -> Tensor:
        a, p, n = torch.split(vectors[at], [len(part) for part in parts])
        return info_nce(
            a, p, temperature, anchor_ids=anchors, positive_ids=positives, negatives=n, negative_ids=negatives
        )

    return loss


def scored_part(problem: Problem, most: int, seed: int) -> tuple[Problem, Indices]:
    """The problem with at most so many selection rows and fitted rows, and the texts that a score of it needs.

    The score decides when to stop, and running every text of a large set for it would take as long as the fit.
    """
    rng = np.random.default_rng([seed, 1])

    def drawn(rows: int) -> Indices:
        return np.sort(rng.choice(rows, min(most, rows), replace=False)).astype(np.int64)

    fit, select = drawn(rows_to_fit(problem)), drawn(rows_to_select(problem))
    if isinstance(problem, LabelledProblem):
        labelled = replace(
            problem,
            fit=problem.fit[fit],
            fit_labels=problem.fit_labels[fit],
            fit_weights=None if problem.fit_weights is None else problem.fit_weights[fit],
            select=problem.select[select],
            select_labels=problem.select_labels[select],
        )
        return labelled, np.unique(np.concatenate([labelled.fit, labelled.select]))
    paired = replace(
        problem,
        fit_anchors=problem.fit_anchors[fit],
        fit_positives=problem.fit_positives[fit],
        fit_negatives=problem.fit_negatives[fit],
        select_anchors=problem.select_anchors[select],
        select_positives=problem.select_positives[select],
    )
    needed = np.concatenate([paired.fit_positives, paired.select_positives, paired.select_anchors])
    return paired, np.unique(needed)
