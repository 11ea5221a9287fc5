"""Labels for unlabelled texts, read from the neighbourhood they lie in: calibrated, capped, never near a judge.

A pseudo-label is what the graph of neighbours says (training/propagation.py). Its confidence is calibrated by
temperature scaling on the selection rows, whose labels the graph is not told, so that it can be read as the share of
such labels that are right. Lee 2013, "Pseudo-Label"; Guo et al. 2017 (arXiv 1706.04599) for the temperature.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitoring.calibration import fit_temperature
from monitoring.predictions import Predictions
from registry.near import near_duplicates, normal_form
from training.problem import Indices, LabelledProblem, Vectors, Weights
from training.propagation import propagate
from training.selection import Apply

MAX_POOL: Final = 20_000
"""Unlabelled texts that are looked at: what the graph costs grows with the square of their number."""


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Which unlabelled texts were taken, the likeliest first.

    Attributes:
        rows: (t,) their places in the pool.
        labels: (t,) label codes.
        weights: (t,) float32 calibrated confidence in (0, 1], with which they enter the fit.
        report: What was found, as plain JSON values.
    """

    rows: Indices
    labels: Indices
    weights: Weights
    report: dict[str, Any]


def apart(texts: Sequence[str], held: Sequence[str], known: Sequence[str] = ()) -> npt.NDArray[np.bool_]:
    """(n,) whether each text may be learnt from beside rows that judge.

    False for a text that repeats a held-out one (case, punctuation and spaces aside) or is a near-duplicate of one,
    that repeats one of the `known` texts, which are fitted anyway, or that repeats an earlier text of its own list.
    """
    kept = np.ones(len(texts), np.bool_)
    if held and texts:
        # Without a bound on the size of a group: a chain of near-duplicates is left out as a whole.
        groups = near_duplicates([*held, *texts], largest=len(held) + len(texts)).groups
        kept &= ~np.isin(groups[len(held) :], groups[: len(held)])
    seen = {normal_form(text) for text in held} | {normal_form(text) for text in known}
    for at, text in enumerate(texts):
        form = normal_form(text)
        kept[at] &= form not in seen
        seen.add(form)
    return kept


def pseudo_labels(
    problem: LabelledProblem, pool: Vectors, apply: Apply, *, threshold: float, cap: float
) -> PseudoLabels:
    """Label the pool by the neighbourhoods that it makes with the fitted rows, as a head adapts them.

    Of each label the surest texts are taken: at most `cap` times as many as a label has fitted rows on average, so that
    no label gains much more than another, and at most `cap` times the fitted rows in all.

    Args:
        problem: Labels spread from those fitted rows alone whose labels are not doubted.
        pool: (p, d) float32 base vectors of the unlabelled texts, of which none repeats or resembles a held-out one.
        apply: The head: base vectors to adapted ones.
        threshold: Least confidence of a label that is taken, in (0, 1].
        cap: Above 0.
    """
    rows, labels = problem.fit[problem.sure], problem.fit_labels[problem.sure]
    report: dict[str, Any] = {"pool": len(pool), "threshold": threshold}
    if not len(pool) or not len(rows) or not len(problem.select):
        return _taken(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), report)
    others = apply(np.concatenate([problem.vectors[problem.select], pool]))
    spread = propagate(apply(problem.vectors[rows]), labels, others)
    held, found = (Predictions(spread.labels, logs) for logs in np.split(spread.logs, [len(problem.select)]))
    truth = [str(code) for code in problem.select_labels]
    temperature = fit_temperature(held, truth)
    held, found = held.tempered(temperature), found.tempered(temperature)
    confidence = found.confidence()
    codes = np.array([int(name) for name in found.named()], np.int64)
    able = np.flatnonzero(confidence >= threshold)
    most = max(1, int(cap * len(rows) / len(spread.labels)))
    taken = _surest(able[np.argsort(-confidence[able], kind="stable")], codes, most)[: int(cap * len(rows))]
    above = held.confidence() >= threshold
    report |= {
        "temperature": round(temperature, 4),
        "above_threshold": len(able),
        "labels": len(np.unique(codes[taken])),
        "cap_per_label": most,
        # How often such labels were right where the right one is known: a few selection rows, so a rough check.
        "select_rows_above_threshold": int(above.sum()),
        "select_precision": round(float(held.correct(truth)[above].mean()), 4) if above.any() else None,
    }
    return _taken(taken, codes[taken], confidence[taken], report)


def _surest(order: Indices, codes: Indices, most: int) -> Indices:
    """The first `most` of each label, in their order."""
    counts: dict[int, int] = {}
    kept = []
    for at in order.tolist():
        label = int(codes[at])
        counts[label] = counts.get(label, 0) + 1
        if counts[label] <= most:
            kept.append(at)
    return np.array(kept, np.int64)


def _taken(rows: Indices, labels: Indices, confidence: npt.NDArray[np.float64], report: dict[str, Any]) -> PseudoLabels:
    expected = round(float(confidence.mean()), 4) if len(rows) else None
    told = report | {"taken": len(rows), "expected_precision": expected}
    return PseudoLabels(rows, labels, np.minimum(confidence, 1.0).astype(np.float32), told)
