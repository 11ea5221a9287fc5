"""Puts what was measured of every contender together as the document `evaluation.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, cast

import numpy as np

from monitoring.calibration import reliability
from monitoring.classification import class_report
from monitoring.error_analysis import confused_labels, worst_examples
from monitoring.general import similarity_correlation
from monitoring.geometry import neighbor_overlap
from monitoring.significance import Interval, paired_bootstrap, resample_all
from monitoring.subgroups import subgroups
from training.data import Corpus, GateItems, Parts
from training.evaluation import NO_GROUP, QUARTERS, item_rows
from training.evaluation_document import (
    SCHEMA,
    CalibrationFound,
    Errors,
    Estimate,
    Evaluation,
    FewShotFound,
    General,
    GroupsFound,
    RobustnessFound,
    Shift,
    VersionsFound,
)
from training.evaluation_scores import Assessed
from training.problem import Vectors

RESAMPLES: Final = 1_000
EXAMPLES: Final = 20
NAMES: Final = ("base", "candidate", "champion")


def build(
    corpus: Corpus,
    parts: Parts,
    items: GateItems,
    found: Mapping[str, Assessed],
    generic: Mapping[str, Vectors],
    groups: Mapping[str, Sequence[str]],
    *,
    primary: str,
    versions: VersionsFound | None,
) -> Evaluation:
    """The document for contenders by name, `base` and `candidate` among them.

    `generic` holds their vectors of the same generic sentences, `groups` the items' marks by property, `versions` what
    was found of candidate and champion.
    """
    found = {name: found[name] for name in NAMES if name in found}
    return Evaluation(
        schema=SCHEMA,
        kind=corpus.kind.value,
        primary=primary,
        contenders=list(found),
        rows={
            "fit": len(parts.fit),
            "select": len(parts.select),
            "judged": len(parts.judged),
            "items": len(items.queries),
            "clusters": len(np.unique(items.clusters)),
        },
        metrics=_means({name: of.scores for name, of in found.items()}, items),
        differences=_differences(found, items),
        classification=_classification(found, items),
        few_shot=_few_shot(found),
        calibration=_calibration(found, items),
        subgroups={
            column: {name: _groups(of, primary, marks, items) for name, of in found.items()}
            for column, marks in groups.items()
        },
        robustness={name: cast(RobustnessFound, of.robustness.to_json()) for name, of in found.items()},
        shift=_shift(found, primary, groups, items),
        general={name: _general(generic[name], generic["base"]) for name in found},
        errors=_errors(corpus, parts, items, found),
        versions=versions,
        notes=_notes(items, groups, found["base"]),
    )


def _estimate(interval: Interval) -> Estimate:
    return cast(Estimate, asdict(interval))


def _means(scores: Mapping[str, Mapping[str, Any]], items: GateItems) -> dict[str, dict[str, Estimate]]:
    columns = {(name, metric): values for name, of in scores.items() for metric, values in of.items()}
    table: dict[str, dict[str, Estimate]] = {name: {} for name in scores}
    for (name, metric), drawn in resample_all(columns, items.clusters, n=RESAMPLES).items():
        table[name][metric] = _estimate(drawn.interval())
    return table


def _differences(found: Mapping[str, Assessed], items: GateItems) -> dict[str, dict[str, Estimate]]:
    ours = found["candidate"].scores
    return _means(
        {
            rival: {metric: values - found[rival].scores[metric] for metric, values in ours.items()}
            for rival in ("base", "champion")
            if rival in found
        },
        items,
    )


def _classification(found: Mapping[str, Assessed], items: GateItems) -> dict[str, dict[str, Any]] | None:
    told: dict[str, dict[str, Any]] = {}
    for name, of in found.items():
        if of.vote is None or of.logistic is None:
            return None
        report = class_report(of.logistic.named, items.query_labels, items.clusters).to_json()
        told[name] = {
            "knn": class_report(of.vote.predicted.named(), items.query_labels, items.clusters).to_json(),
            "logistic": report
            | {"rows": of.logistic.rows, "iterations": of.logistic.iterations, "converged": of.logistic.converged},
        }
    return told


def _few_shot(found: Mapping[str, Assessed]) -> dict[str, FewShotFound] | None:
    told = {name: cast(FewShotFound, of.few_shot.to_json()) for name, of in found.items() if of.few_shot is not None}
    return told or None


def _calibration(found: Mapping[str, Assessed], items: GateItems) -> dict[str, CalibrationFound] | None:
    told: dict[str, CalibrationFound] = {}
    for name, of in found.items():
        if of.vote is None:
            return None
        before = of.vote.predicted
        curve = [asdict(part) for part in reliability(before.confidence(), before.correct(items.query_labels))]
        told[name] = cast(CalibrationFound, of.vote.scaled.to_json() | {"curve_before": curve})
    return told


def _groups(assessed: Assessed, primary: str, marks: Sequence[str], items: GateItems) -> GroupsFound:
    return cast(GroupsFound, subgroups(assessed.scores[primary], marks, items.clusters, n=RESAMPLES).to_json())


def _shift(
    found: Mapping[str, Assessed],
    primary: str,
    groups: Mapping[str, Sequence[str]],
    items: GateItems,
) -> Shift:
    named = [name for name in groups.get("group", ()) if name != NO_GROUP]
    novelty = np.array(groups["novelty"], dtype=object)

    def of(quarter: str) -> dict[str, Estimate]:
        at = novelty == quarter
        if not at.any():
            return {}
        return {
            name: _estimate(paired_bootstrap(of.scores[primary][at], items.clusters[at], n=RESAMPLES))
            for name, of in found.items()
        }

    return {
        "groups_unseen": len(set(named)),
        "rows_with_group": len(named),
        "far": of(QUARTERS[-1]),
        "near": of(QUARTERS[0]),
    }


def _general(vectors: Vectors, base: Vectors) -> General:
    return {
        "sentences": len(base),
        "neighbor_overlap": neighbor_overlap(vectors, base),
        "similarity_correlation": _estimate(similarity_correlation(vectors, base).interval()),
    }


def _errors(corpus: Corpus, parts: Parts, items: GateItems, found: Mapping[str, Assessed]) -> dict[str, Errors]:
    query_rows, index_rows = item_rows(corpus, items, parts)
    examined = found["base"].examined
    ids = [str(row + 1) for row in query_rows[examined]]
    index_ids = [str(row + 1) for row in index_rows]
    truth = [items.query_labels[item] for item in examined] if items.query_labels else None
    base = dict(zip(ids, found["base"].margins.values.tolist(), strict=True))
    told: dict[str, Errors] = {}
    for name, of in found.items():
        margins = of.margins
        worst = worst_examples(
            margins, ids, index_ids, query_labels=truth, index_labels=items.index_labels or None, count=EXAMPLES
        )
        confused = (
            [] if of.vote is None else confused_labels(items.query_labels, of.vote.predicted.named(), count=EXAMPLES)
        )
        told[name] = {
            "looked_at": len(examined),
            "below_zero": int((margins.values < 0).sum()),
            "examples": [
                {
                    "row": int(example.query),
                    "margin": example.margin,
                    "base_margin": base[example.query],
                    "right": None if example.right is None else int(example.right),
                    "wrong": None if example.wrong is None else int(example.wrong),
                    "right_cosine": example.right_cosine,
                    "wrong_cosine": example.wrong_cosine,
                    "label": example.label,
                    "wrong_label": example.wrong_label,
                }
                for example in worst
            ],
            "confusions": [
                {"label": c.label, "taken_for": c.taken_for, "items": c.items, "share": c.share} for c in confused
            ],
        }
    return told


def _notes(items: GateItems, groups: Mapping[str, Sequence[str]], base: Assessed) -> list[str]:
    """What was not measured, and why."""
    notes = []
    if items.relevant:
        notes.append("pairs have no labels: no classification, few-shot accuracy, calibration or confused labels")
    else:
        notes.append(
            "every judged label was fitted on: how the candidate does on labels it never saw would need a second fit "
            "without them, and was not measured"
        )
        if base.few_shot is None:
            notes.append("the labels are too many for the few-shot protocol, which was left out")
    if "group" in groups:
        notes.append("groups are never parted: no judged row's group was fitted on, so every figure is on new groups")
    else:
        notes.append("rows name no group, so a shift between sources (customers, documents, authors) was not measured")
    notes.append("general ability is how little generic sentences moved against each other, not a judged task")
    return notes
