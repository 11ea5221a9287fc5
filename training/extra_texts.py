"""The texts that a fit gets beside its dataset's: other wordings of rows to fit, and texts without a label.

None of them repeats or resembles a row that is held out: what judges a version was not learnt from in other words.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitoring.recipe import Recipe
from registry.row import RowKind
from training.augment import Keep, Wording, wordings
from training.data import Corpus, Parts
from training.problem import Indices, LabelledProblem, PairProblem, Problem, Vectors
from training.pseudo import MAX_POOL, apart

FILE: Final = "extra.safetensors"
"""Base vectors (w, d) `wordings` with `of`, (w,) which fit row each is a wording of, and (p, d) `pool`."""
POOL: Final = "pool.safetensors"
"""Base vectors (p, d) `texts` of the unlabelled texts, for the fit's process."""
_SAME: Final = 0.9999
"""Cosine from which a wording is the text itself to the backbone, as where it folds case."""


@dataclass(frozen=True, slots=True)
class ExtraTexts:
    """What is encoded for the fit beside the dataset.

    Attributes:
        wordings: Of fit rows, by their place in `parts.fit`.
        pool: Unlabelled texts.
        report: What was made and what was left out, as plain JSON values.
    """

    wordings: list[Wording]
    pool: list[str]
    report: dict[str, Any]


def extra_texts(corpus: Corpus, parts: Parts, recipe: Recipe, unlabelled: Sequence[str]) -> ExtraTexts:
    """What the recipe asks for, always the same for the same arguments.

    Args:
        corpus, parts: The dataset.
        recipe: `augment` and `seed` are used.
        unlabelled: Texts of the recipe's unlabelled dataset; of many, MAX_POOL evenly drawn ones are looked at.
    """
    held = _texts(corpus, np.concatenate([parts.select, parts.gate]))
    report: dict[str, Any] = {}
    made: list[Wording] = []
    fitted = [corpus.texts[number] for number in corpus.subject[parts.fit]]
    if recipe.augment:
        labels = [corpus.labels[row] for row in parts.fit] if corpus.labels else None
        wanted = math.ceil(recipe.augment * len(fitted))
        found = wordings(fitted, wanted, Keep.of(fitted, labels), seed=recipe.seed, taken=corpus.texts)
        kept = apart([wording.text for wording in found], held)
        made = [wording for wording, good in zip(found, kept, strict=True) if good]
        kinds = Counter(wording.kind for wording in made)
        report["wordings"] = {"wanted": wanted, "made": len(made), "near_held_out": int((~kept).sum()), **kinds}
    pool: list[str] = []
    if unlabelled:
        drawn = np.random.default_rng(recipe.seed).permutation(len(unlabelled))[:MAX_POOL]
        looked_at = [unlabelled[place] for place in np.sort(drawn)]
        good = apart(looked_at, held, fitted)
        pool = [text for text, fine in zip(looked_at, good, strict=True) if fine]
        report["unlabelled"] = {
            "texts": len(unlabelled),
            "looked_at": len(looked_at),
            "near_held_out_or_repeated": int((~good).sum()),
        }
    return ExtraTexts(made, pool, report)


def extra_arrays(extra: ExtraTexts, vectors: Vectors) -> dict[str, npt.NDArray[Any]]:
    """What FILE holds, of the base vectors (w + p, d) of the wordings and of the pool, in this order."""
    count = len(extra.wordings)
    of = np.array([wording.of for wording in extra.wordings], np.int64)
    return {"wordings": vectors[:count], "of": of, "pool": vectors[count:]}


def with_wordings(task: Problem, arrays: Mapping[str, npt.NDArray[Any]]) -> Problem:
    """The problem with the wordings as extra rows, each with its row's label and weight, or its row's positive.

    Wordings that the backbone cannot tell from their text are left out.
    """
    vectors, of = arrays["wordings"], arrays["of"]
    fitted = task.fit if isinstance(task, LabelledProblem) else task.fit_anchors
    new: Indices = np.flatnonzero(np.einsum("nd,nd->n", vectors, task.vectors[fitted[of]]) < _SAME)
    if not len(new):
        return task
    rows = of[new]
    if isinstance(task, PairProblem):
        return task.with_extra(vectors[new], task.fit_positives[rows])
    return task.with_extra(vectors[new], task.fit_labels[rows], task.weights()[rows])


def _texts(corpus: Corpus, rows: Indices) -> list[str]:
    """Every text of some rows; of pairs the answers too, and of views the text that is looked for."""
    columns = [corpus.subject[rows]] + ([corpus.positive[rows]] if corpus.kind is RowKind.PAIRS else [])
    return [corpus.texts[number] for number in np.unique(np.concatenate(columns))]
