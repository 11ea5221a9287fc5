"""Shared by the tests of reports: the material of one, made of random vectors and hostile texts."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from monitoring.calibration import reliability, scale
from monitoring.error_analysis import confused_labels, margins_by_label, margins_by_pairs, worst_examples
from monitoring.predictions import knn_predictions
from monitoring.quality import Scores, label_scores, pair_scores
from monitoring.recipe import Recipe
from monitoring.retrieval import hits_by_label, hits_by_pairs, retrieval_scores
from monitoring.robustness import robustness
from monitoring.significance import resample
from monitoring.subgroups import subgroups
from registry.row import Row, RowKind
from training.data import Corpus, GateItems
from training.evaluation_versions import versions_of
from training.report.material import Material
from training.report.neighbourhoods import neighbourhood_changes

HOSTILE = [
    "<script>alert('text')</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "</style></table></html><!--",
    "line\nbreaks\tand \u202e turned \x00 \x1b[31m round",
    "javascript:alert(1) & more &amp; $x^2$ \\frac{1}{2}",
    "x" * 5_000,
    "nothing wrong with this one",
]
LABELS = [
    "<script>alert('label')</script>",
    "card & cash",
    "'quoted' \"label\"",
    "plain",
    "{{ label }}",
    "$math$ \u0627",
]
DIGEST = "ab" * 32


def unit(array: np.ndarray) -> np.ndarray:
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


def estimate(values: Scores) -> dict[str, Any]:
    return asdict(resample(values, n=200).interval())


def evaluation_of(
    corpus: Corpus, items: GateItems, query_rows: Sequence[int], vectors: dict[str, np.ndarray]
) -> dict[str, Any]:
    """An evaluation document of these vectors; some of its tables are simpler than the real ones, none is of another
    shape."""
    labelled = not items.relevant
    rng = np.random.default_rng(0)
    scores, calibration, errors, models = {}, {}, {}, list(vectors)
    groups: dict[str, dict[str, Any]] = {"label": {}, "length": {}} if labelled else {"length": {}}
    shaken = {}
    row_of = {int(text): row + 1 for row, text in enumerate(corpus.subject if labelled else corpus.positive)}
    index_rows = [str(row_of[int(text)]) for text in items.index]
    lengths = ["short" if len(corpus.texts[text]) < 40 else "long" for text in items.queries]
    margins = {}
    for name, all_vectors in vectors.items():
        index, queries = all_vectors[items.index], all_vectors[items.queries]
        if labelled:
            asked = (index, items.index_labels, queries, items.query_labels)
            scores[name] = retrieval_scores(hits_by_label(*asked)) | label_scores(*asked)
            predicted = knn_predictions(index, items.index_labels, queries)
            scaled = scale(predicted, items.query_labels, predicted, items.query_labels)
            before = reliability(predicted.confidence(), predicted.correct(items.query_labels))
            calibration[name] = {**scaled.to_json(), "curve_before": [asdict(part) for part in before]}
            margins[name] = margins_by_label(*asked)
            named = [predicted.labels[code] for code in predicted.logs.argmax(axis=1)]
            confusions = [found.to_json() for found in confused_labels(items.query_labels, named)]
            groups["label"][name] = subgroups(scores[name]["ndcg_at_10"], items.query_labels, n=100).to_json()
        else:
            scores[name] = retrieval_scores(hits_by_pairs(index, queries, items.relevant)) | pair_scores(
                index, queries, items.relevant
            )
            margins[name] = margins_by_pairs(index, queries, items.relevant)
            confusions = []
        groups["length"][name] = subgroups(scores[name]["ndcg_at_10"], lengths, n=100).to_json()
        clean = scores[name]["ndcg_at_10"]
        worse = {
            (kind, severity): np.clip(clean - 0.04 * severity * rng.random(len(clean)), 0, 1)
            for kind in ("typos", "case", "drop_words", "truncate", "filler")
            for severity in (1, 2, 3)
        }
        shaken[name] = robustness(clean, worse, n=200).to_json()
        errors[name] = {
            "looked_at": len(items.queries),
            "below_zero": int((margins[name].values < 0).sum()),
            "confusions": confusions,
        }
    for name in models:
        examples = worst_examples(
            margins[name],
            [str(row) for row in query_rows],
            index_rows,
            query_labels=items.query_labels or None,
            index_labels=items.index_labels or None,
        )
        errors[name]["examples"] = [
            {
                **{key: value for key, value in found.to_json().items() if key != "query"},
                "row": int(found.query),
                "right": None if found.right is None else int(found.right),
                "wrong": None if found.wrong is None else int(found.wrong),
                "base_margin": float(margins["base"].values[query_rows.index(int(found.query))]),
            }
            for found in examples
        ]
    half = len(items.queries) // 2
    rivals = [name for name in models if name != "candidate"]
    mine = scores["candidate"]
    return {
        "schema": 1,
        "kind": corpus.kind.value,
        "primary": "ndcg_at_10",
        "contenders": models,
        "rows": {"fit": 60, "select": 20, "judged": 40, "items": len(items.queries), "clusters": len(items.queries)},
        "metrics": {name: {metric: estimate(v) for metric, v in found.items()} for name, found in scores.items()},
        "differences": {
            rival: {metric: estimate(mine[metric] - scores[rival][metric]) for metric in mine} for rival in rivals
        },
        "classification": {
            name: {
                classifier: {
                    "accuracy": estimate(scores[name]["knn_accuracy"]),
                    "macro_precision": estimate(scores[name]["knn_accuracy"]),
                    "macro_recall": estimate(scores[name]["knn_accuracy"]),
                    "macro_f1": estimate(scores[name]["knn_accuracy"]),
                    "labels": [{"label": LABELS[0], "items": 5, "precision": 0.5, "recall": 0.5, "f1": 0.5}],
                }
                for classifier in ("knn", "logistic")
            }
            for name in models
        }
        if labelled
        else None,
        "few_shot": {n: {"accuracy": 0.8, "sd": 0.01, "experiments": [0.8], "per_label": 8} for n in models}
        if labelled
        else None,
        "calibration": calibration if labelled else None,
        "subgroups": groups,
        "robustness": shaken,
        "shift": {
            "groups_unseen": 0,
            "rows_with_group": 0,
            "far": {name: estimate(scores[name]["ndcg_at_10"][:half]) for name in models},
            "near": {name: estimate(scores[name]["ndcg_at_10"][half:]) for name in models},
        },
        "general": {
            name: {
                "sentences": 100,
                "neighbor_overlap": 0.7,
                "similarity_correlation": estimate(rng.random(50)),
            }
            for name in models
        },
        "errors": errors,
        "versions": versions_of(items, vectors),
        "notes": ["no row names a group"],
    }


def fit_report() -> dict[str, Any]:
    """The report of a fit of three measurements."""
    geometry = {
        "loss": [2.0, 1.5, 1.2, 1.1],
        "alignment": [1.2, 1.0, 0.9, 0.8],
        "uniformity": [-3.0, -3.1, -3.2, -3.2],
        "effective_rank": [90.0, 88.0, 86.0, 85.0],
        "mean_pair_cosine": [0.1, 0.1, 0.1, 0.1],
        "foreign_cosine": [0.05, 0.06, 0.06, 0.07],
        "stability": [0.958, 0.95, 0.94, 0.94],
        "prototype_nearest": [None, 0.2, 0.25, 0.3],
        "prototype_own": [0.5, 0.4, 0.35, 0.3],
        "margin_p10": [-0.2, -0.1, -0.05, 0.0],
        "margin_median": [0.0, 0.1, 0.2, 0.2],
        "margin_p90": [0.2, 0.3, 0.4, 0.5],
        "margin_below_zero": [0.4, 0.3, 0.2, 0.1],
        "neighbor_overlap": [1.0, 0.9, 0.8, 0.7],
        "neighbor_agreement": [0.6, 0.7, 0.75, 0.8],
    }
    return {
        "method": "head", "why": {"text": "no LoRA was tried: lora_budget_s is 0"},
        "base_score": 0.7, "select_score": 0.8, "best_step": 40, "steps_run": 60, "stopped": "patience",
        "reasons": [], "alpha": 0.75, "refitted": False, "dropout": 0.2, "temperature": 0.1, "seconds": 1.5,
        "curve": [[20, 0.75], [40, 0.8], [60, 0.79]], "geometry": {"step": [0, 20, 40, 60], **geometry},
    }  # fmt: skip


@pytest.fixture(scope="session")
def make_material() -> Callable[..., Material]:
    """Makes the material of a report on labelled rows or pairs, with a champion or without."""

    def make(kind: RowKind = RowKind.LABELLED, champion: bool = True, rows: int = 120) -> Material:
        rng = np.random.default_rng(7)
        labelled = kind is RowKind.LABELLED
        texts = [f"{HOSTILE[n % len(HOSTILE)]} {n}" if n >= len(HOSTILE) else HOSTILE[n] for n in range(rows)]
        codes = rng.integers(0, len(LABELS), rows)
        numbers = np.arange(rows, dtype=np.int64)
        fit, judged = numbers[: rows * 2 // 3], numbers[rows * 2 // 3 :]
        clusters, query_rows = np.arange(len(judged)), [int(n) + 1 for n in judged]
        if labelled:
            labels = [LABELS[code] for code in codes]
            corpus = Corpus.of([Row(text=t, label=label) for t, label in zip(texts, labels, strict=True)], kind)
            known, asked = [labels[n] for n in fit], [labels[n] for n in judged]
            items = GateItems(corpus.subject[fit], corpus.subject[judged], known, asked, [], clusters)
        else:
            corpus = Corpus.of([Row(anchor=text, positive=f"{text} answered") for text in texts], kind)
            relevant = [{int(n)} for n in judged]
            items = GateItems(corpus.positive, corpus.subject[judged], [], [], relevant, clusters)
        centres = rng.normal(size=(len(LABELS), 24))
        base = unit(centres[codes] * 0.5 + rng.normal(size=(rows, 24)))
        moved = codes
        if not labelled:
            # Texts are numbered in the order of their appearance: an anchor, its answer, the next anchor.
            base = np.stack([base, unit(base + 0.8 * unit(rng.normal(size=base.shape)))], axis=1).reshape(-1, 24)
            moved = np.repeat(codes, 2)
        models = {"base": base, "candidate": unit(base + 0.4 * unit(centres)[moved])}
        if champion:
            models["champion"] = unit(base + 0.2 * unit(centres)[moved])
        return Material(
            dataset={
                "name": "support", "revision": 3, "digest": DIGEST, "kind": kind.value, "rows": rows,
                "labels": len(LABELS) if labelled else 0, "repeated_rows": 1, "conflicting_texts": 2,
                "near_duplicate_rows": 4, "warnings": ["1 of 120 rows repeat another row word for word"],
            },
            parts={"fit": 60, "select": 20, "gate": 40, "set_aside": 0},
            recipe=Recipe(steps=60).resolved(kind).to_dict(),
            changed=frozenset({"steps"}),
            fit=fit_report(),
            evaluation=evaluation_of(corpus, items, query_rows, models),
            verdict={
                "outcome": "pass",
                "reasons": [
                    {"code": "ndcg_at_10_better", "text": "nDCG@10 is better", "ok": True, "numbers": {"mean": 0.1}},
                    {"code": "groups_kept", "text": "no group lost", "ok": False, "numbers": {}},
                ],
                "metrics": {"items": 40},
            },
            lineage={
                "adapter": "support", "kind": "head", "job": "job_1", "asked_at": "2026-11-24T00:00:00+00:00",
                "backbone": {"name": "all-MiniLM-L6-v2", "digest": DIGEST},
                "parent": {"number": 2, "digest": DIGEST} if champion else None,
                "files": {"head.onnx": DIGEST}, "libraries": {"numpy": "2.4.6", "torch": None},
            },
            corpus=corpus,
            items=items,
            base=base,
            candidate=models["candidate"],
            neighbourhoods=neighbourhood_changes(items, base, models["candidate"]),
        )  # fmt: skip

    return make
