"""Measures models on the judged items of a dataset, and hands the gate what it asks for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from monitoring.gate import Contender, Verdict, judge
from monitoring.leakage import Leakage
from monitoring.recipe import Recipe
from monitoring.robustness import designed
from registry.row import Row
from training.contenders import Model
from training.data import Corpus, GateItems, Parts, gate_items
from training.evaluation import groups_of
from training.evaluation_build import build
from training.evaluation_document import Evaluation
from training.evaluation_scores import Assessed, assess
from training.evaluation_versions import versions_of
from training.problem import Vectors

PERTURBED: Final = 1_500
"""Perturbed texts that every contender encodes, beyond one for each item: a second or two on two cores."""
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured: the items, each model by name, its vectors of generic sentences, the items' groups, and the
    models themselves."""

    items: GateItems
    found: dict[str, Assessed]
    generic: dict[str, Vectors]
    groups: dict[str, list[str]]
    models: Mapping[str, Model]

    def document(self, corpus: Corpus, parts: Parts, recipe: Recipe) -> Evaluation:
        """The document for reports."""
        primary = recipe.gate_settings().primary
        with threadpool_limits(1, user_api="blas"):
            return build(
                corpus,
                parts,
                self.items,
                self.found,
                self.generic,
                self.groups,
                primary=primary,
                versions=versions_of(self.items, {name: model.texts for name, model in self.models.items()}),
            )

    def arrays(self) -> Arrays:
        """Every item's scores, clusters and groups by number, and the generic vectors: all that the gate needs."""
        kept: Arrays = {"clusters": self.items.clusters}
        for name, assessed in self.found.items():
            kept[f"generic.{name}"] = self.generic[name]
            kept |= {f"scores.{name}.{metric}": values for metric, values in assessed.scores.items()}
        for column, marks in self.groups.items():
            kept[f"groups.{column}"] = np.unique(np.array(marks, dtype=object).astype(str), return_inverse=True)[1]
        return kept


def measure(
    corpus: Corpus,
    rows: Sequence[Row],
    parts: Parts,
    models: Mapping[str, Model],
    recipe: Recipe,
    tell: Callable[[float, str], None],
) -> Measured:
    """Score every model on the same items and the same perturbed texts; `tell` is called with the share done."""
    items = gate_items(corpus, parts)
    design = designed([corpus.texts[number] for number in items.queries], most=PERTURBED, seed=recipe.seed)
    found: dict[str, Assessed] = {}
    for name, model in models.items():
        tell(len(found) / len(models), f"scoring {name}")
        perturbed = model.encode(design.texts)
        # BLAS threads that wait for each other on busy cores made a classifier's fit a hundred times slower.
        with threadpool_limits(1, user_api="blas"):
            found[name] = assess(corpus, parts, items, model.texts, design, perturbed, recipe.seed)
    generic = {name: model.generic for name, model in models.items()}
    groups = groups_of(corpus, rows, parts, items, models["base"].texts)
    return Measured(items, found, generic, groups, models)


def verdict_of(arrays: Mapping[str, npt.NDArray[Any]], recipe: Recipe, leakage: Leakage, use: int) -> Verdict:
    """The gate's verdict on the candidate from `Measured.arrays`, as the `use`-th on these rows."""
    compared: dict[str, Contender] = {}
    for name in ("candidate", "base", "champion"):
        prefix = f"scores.{name}."
        scores = {key.removeprefix(prefix): np.asarray(a) for key, a in arrays.items() if key.startswith(prefix)}
        if scores:
            compared[name] = Contender(name, scores, arrays.get(f"generic.{name}"))
    # The gate names no group, so numbers will do for their marks.
    groups = {
        key.removeprefix("groups."): [str(code) for code in codes.tolist()]
        for key, codes in arrays.items()
        if key.startswith("groups.")
    }
    return judge(
        compared["candidate"],
        compared.get("champion"),
        compared["base"],
        settings=recipe.gate_settings(),
        clusters=arrays["clusters"],
        groups=groups,
        leakage=leakage,
        use=use,
    )
