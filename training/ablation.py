"""Recipe variants fitted and judged on one and the same split, over several seeds; no gate row is looked at.

An ablation is made to choose by. Whoever chooses by the gate's rows has spent them: a later verdict on these rows would
be too kind. So the rows that a retrain under this recipe's seed would judge on are put aside first, and the others are
parted once more into rows to fit, to select and to compare on.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from monitoring.geometry import neighbor_overlap
from monitoring.quality import Scores
from monitoring.recipe import Recipe
from monitoring.significance import Interval, paired_bootstrap
from registry.row import Row, RowKind
from training.ablation_variants import Variant
from training.data import Corpus, GateItems, Parts, fit_problem, fit_texts, gate_items, part
from training.errors import FitFailed
from training.evaluation import item_scores
from training.fit import fit_head
from training.fit_child import MAX_THREADS
from training.generic import generic_texts
from training.lora_fit import cut_tokens, fit_lora
from training.lora_model import LoraModel
from training.lora_task import settings_of
from training.problem import Vectors
from training.sentence import load_module
from training.sources import Source
from training.team import Team

Encode = Callable[[Sequence[str]], Vectors]
Tell = Callable[[str, int, float], None]
"""Told of a variant's name, which fit it is in (from 0), and the share of that fit that is done."""

_SEEDS: Final = 2**31


@dataclass(frozen=True, eq=False)
class Ground:
    """What every variant is fitted and judged on.

    Attributes:
        corpus: The rows, without those of the gate.
        parts: Which of them are fitted, selected and judged on (its `gate` and `judged`).
        items: What is asked.
        texts: (u, d) float32 base vectors of the distinct texts.
        generic: (g, d) float32 base vectors of the generic sentences.
        held_back: How many rows were put aside for the gate.
        source: The pretrained model, for variants with a LoRA; None where it was not found.
    """

    corpus: Corpus
    parts: Parts
    items: GateItems
    texts: Vectors
    generic: Vectors
    held_back: int
    source: Source | None = None

    @classmethod
    def of(
        cls, rows: Sequence[Row], kind: RowKind, seed: int, encode: Encode, source: Source | None = None
    ) -> "Ground":
        """The ground for a dataset's rows; `seed` is that of the recipe, and `encode` gives base vectors of texts.

        Raises:
            DataRefused: A part would be empty or too small.
        """
        kept = without_gate(rows, seed)
        # Another seed than the gate's: its own draw has just taken out all that it would draw.
        parts = part(kept, (seed + 1) % _SEEDS)
        corpus = Corpus.of(kept, kind)
        return cls(
            corpus=corpus,
            parts=parts,
            items=gate_items(corpus, parts),
            texts=encode(corpus.texts),
            generic=encode(generic_texts()),
            held_back=len(rows) - len(kept),
            source=source,
        )


@dataclass(frozen=True, eq=False)
class Trial:
    """One fit of one variant.

    Attributes:
        scores: By metric, (m,) one score for each item.
        kept: Share of the ten nearest generic sentences that are the same as for the bare backbone, in the mean.
        seconds: Of the fit.
        best_step: The step whose weights were kept.
    """

    scores: Mapping[str, Scores]
    kept: float
    seconds: float
    best_step: int


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a variant: a trial for each seed, or, where a fit failed, why."""

    variant: Variant
    trials: tuple[Trial, ...]
    fault: str | None = None

    def scores(self, metric: str) -> Scores:
        """(m,) the mean over seeds of each item's score."""
        return np.asarray(np.mean([trial.scores[metric] for trial in self.trials], axis=0), dtype=np.float64)

    def means(self, metric: str) -> list[float]:
        """The mean over the items, seed by seed."""
        return [float(np.mean(trial.scores[metric])) for trial in self.trials]


@dataclass(frozen=True, eq=False)
class Ablation:
    """The whole comparison.

    Attributes:
        metric: What is compared first: the recipe's primary metric.
        seeds: Of the fits.
        base: Scores of the bare backbone, by metric.
        outcomes: The recipe first, then its variants.
        clusters: (m,) marks of items that share a source.
    """

    metric: str
    seeds: tuple[int, ...]
    base: Mapping[str, Scores]
    outcomes: tuple[Outcome, ...]
    clusters: np.ndarray

    def against_base(self, outcome: Outcome, metric: str) -> Interval:
        """The difference to the bare backbone."""
        return self._difference(outcome.scores(metric), self.base[metric])

    def against_recipe(self, outcome: Outcome, metric: str) -> Interval | None:
        """The difference to the recipe itself; None where the recipe's own fit failed."""
        recipe = self.outcomes[0]
        return None if recipe.fault else self._difference(outcome.scores(metric), recipe.scores(metric))

    def to_json(self) -> dict[str, Any]:
        """Plain values: every metric's mean, standard deviation and seeds; intervals of the first metric."""
        return {
            "metric": self.metric,
            "seeds": list(self.seeds),
            "items": len(self.clusters),
            "clusters": len(np.unique(self.clusters)),
            "backbone": {metric: float(scores.mean()) for metric, scores in self.base.items()},
            "variants": [self._plain(outcome) for outcome in self.outcomes],
        }

    def _plain(self, outcome: Outcome) -> dict[str, Any]:
        facts = {
            "name": outcome.variant.name,
            "changes": dict(outcome.variant.changes),
            "recipe": outcome.variant.recipe.to_dict(),
            "fault": outcome.fault,
        }
        if outcome.fault:
            return facts
        recipe = self.against_recipe(outcome, self.metric)
        return facts | {
            "scores": {metric: spread(outcome.means(metric)) for metric in self.base},
            "to_recipe": None if recipe is None else dataclasses.asdict(recipe),
            "to_backbone": dataclasses.asdict(self.against_base(outcome, self.metric)),
            "kept": spread([trial.kept for trial in outcome.trials]),
            "seconds": spread([trial.seconds for trial in outcome.trials]),
            "best_step": [trial.best_step for trial in outcome.trials],
        }

    def _difference(self, ours: Scores, theirs: Scores) -> Interval:
        """Over the items, each with its mean over the seeds; items of one source are drawn together."""
        return paired_bootstrap(ours - theirs, self.clusters)


def without_gate(rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows that a retrain under a seed fits or selects on, in their order.

    A fitted negative that answers a row of the gate is taken off its row, as a retrain does.

    Raises:
        DataRefused: A part would be empty or too small.
    """
    parts = part(rows, seed)
    bare = set(parts.known_negatives.tolist())
    kept = np.sort(np.concatenate([parts.fit, parts.select])).tolist()
    return [dataclasses.replace(rows[row], negative=None) if row in bare else rows[row] for row in kept]


def ablate(ground: Ground, variants: Sequence[Variant], seeds: int, tell: Tell) -> Ablation:
    """Fit every variant under several seeds and score it; a fit that fails is a fault of its variant alone.

    Args:
        ground: What is fitted and judged on.
        variants: The recipe first. Its seed is the first fit's; the others count on from there.
        seeds: Fits of each variant.
        tell: Told of progress.
    """
    torch.set_num_threads(min(MAX_THREADS, len(os.sched_getaffinity(0))))  # as in a retrain's child
    recipe = variants[0].recipe
    drawn = tuple((recipe.seed + number) % _SEEDS for number in range(seeds))
    base, _ = item_scores(ground.corpus, ground.parts, ground.items, ground.texts)
    outcomes = tuple(_outcome(ground, variant, drawn, tell) for variant in variants)
    metric = recipe.gate_settings().primary
    return Ablation(metric, drawn, base, outcomes, ground.items.clusters)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (None of a single value) and the values themselves."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": deviation, "values": list(values)}


def _outcome(ground: Ground, variant: Variant, seeds: Sequence[int], tell: Tell) -> Outcome:
    trials: list[Trial] = []
    for number, seed in enumerate(seeds):
        recipe = dataclasses.replace(variant.recipe, seed=seed)

        def told(message: dict[str, Any], number: int = number) -> None:
            tell(variant.name, number, message["step"] / message["steps"])

        try:
            trials.append(_trial(ground, recipe, told))
        except FitFailed as error:
            return Outcome(variant, (), str(error))
    return Outcome(variant, tuple(trials))


def _trial(ground: Ground, recipe: Recipe, told: Callable[[dict[str, Any]], None]) -> Trial:
    fitted = _lora(ground, recipe, told) if recipe.method == "lora" else _head(ground, recipe, told)
    scores, _ = item_scores(ground.corpus, ground.parts, ground.items, fitted.texts)
    kept = neighbor_overlap(ground.generic, fitted.generic)
    return Trial(scores, kept, float(fitted.report["seconds"]), int(fitted.report["best_step"]))


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Vectors of the distinct texts and of the generic sentences under a fitted adapter, and the fit's report."""

    texts: Vectors
    generic: Vectors
    report: Mapping[str, Any]


def _head(ground: Ground, recipe: Recipe, told: Callable[[dict[str, Any]], None]) -> _Fitted:
    problem = fit_problem(ground.corpus, ground.parts, ground.texts)
    fitted = fit_head(problem, recipe, told, generic=ground.generic)
    return _Fitted(fitted.weights.apply(ground.texts), fitted.weights.apply(ground.generic), fitted.report)


def _lora(ground: Ground, recipe: Recipe, told: Callable[[dict[str, Any]], None]) -> _Fitted:
    """As a job fits it, but in one process, and with the vectors of the fitted model in torch."""
    if ground.source is None:
        raise FitFailed("the pretrained model of the backbone was not found, and a LoRA needs it")
    settings = settings_of(recipe)
    problem = fit_problem(ground.corpus, ground.parts, ground.texts)
    tokens = cut_tokens(ground.source, ground.corpus.texts, settings)
    used = cut_tokens(ground.source, fit_texts(ground.corpus, ground.parts), settings)
    fitted = fit_lora(load_module(ground.source), used, problem, settings, told)
    model = LoraModel(load_module(ground.source), settings, torch.device("cpu"))
    model.set(fitted.tensors)
    generic = cut_tokens(ground.source, generic_texts(), settings)
    return _Fitted(model.vectors(tokens, Team()), model.vectors(generic, Team()), fitted.report)
