"""The model card: a JSON document of one version, after the names of Hugging Face's model-index; no text of a dataset.

Structure `driftline.model_card/1`; `schema.py` holds it as a JSON Schema, docs/report.md in words. A later structure
that adds keys keeps the number; one that changes or drops any has the next.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from encoder.manifest import canonical
from training.progress import thinned
from training.report.material import Material
from training.report.words import named

SCHEMA: Final = "driftline.model_card/1"
CONFUSIONS: Final = 10
_NAMED_PROPERTIES: Final = ("label", "length", "novelty")
"""Properties whose groups are named. Those of `group` are the tenant's sources, such as customers, and are not."""


def model_card(found: Material) -> dict[str, Any]:
    """The card as plain JSON values."""
    evaluation = found.evaluation
    metrics = {name: _metrics(means) for name, means in evaluation["metrics"].items()}
    dataset = found.dataset
    return {
        "schema": SCHEMA,
        "library_name": "driftline",
        "pipeline_tag": "sentence-similarity",
        "tags": ["text-embeddings", "adapter", found.lineage["kind"]],
        "base_model": found.lineage["backbone"],
        "datasets": [{**dataset, "parts": dict(found.parts)}],
        "model-index": [
            {
                "name": found.lineage["adapter"],
                "results": [
                    {
                        "task": {"type": "sentence-similarity", "name": "finding rows of the same kind"},
                        "dataset": {
                            "name": dataset["name"],
                            "type": f"driftline/{dataset['kind']}",
                            "revision": str(dataset["revision"]),
                            "split": "gate",
                        },
                        "metrics": metrics.get("candidate", []),
                    }
                ],
            }
        ],
        "compared": {name: found for name, found in metrics.items() if name != "candidate"},
        "differences": {rival: _metrics(parts) for rival, parts in evaluation["differences"].items()},
        "classification": _classification(evaluation["classification"]),
        "few_shot": evaluation["few_shot"],
        "calibration": evaluation["calibration"],
        "subgroups": {name: _groups(name, models) for name, models in evaluation["subgroups"].items()},
        "robustness": evaluation["robustness"],
        "shift": evaluation["shift"],
        "general": evaluation["general"],
        "neighborhoods": found.neighbourhoods.to_json(),
        "errors": {name: _errors(errors) for name, errors in evaluation["errors"].items()},
        "versions": evaluation["versions"],
        "fit": _fit(found.fit),
        "recipe": dict(found.recipe),
        "verdict": dict(found.verdict),
        "lineage": dict(found.lineage),
        "notes": list(evaluation["notes"]),
    }


def card_bytes(card: Mapping[str, Any]) -> bytes:
    """Canonical JSON: sorted keys, no spaces."""
    return canonical(card)


def _metrics(estimates: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """model-index entries {type, name, value} with the interval beside them."""
    return [
        {
            "type": metric,
            "name": name,
            "value": estimates[metric]["mean"],
            "interval": {part: value for part, value in estimates[metric].items() if part != "mean"},
        }
        for metric, name in named(estimates).items()
    ]


def _classification(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """By contender and classifier, without the tables of labels."""
    if found is None:
        return None
    return {
        model: {
            classifier: {name: value for name, value in told.items() if name != "labels"}
            for classifier, told in classifiers.items()
        }
        for model, classifiers in found.items()
    }


def _groups(of: str, models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """By contender: how many groups, the worst judged one, and the gap."""
    found = {}
    for model, groups in models.items():
        rows: Sequence[Mapping[str, Any]] = groups["groups"]
        worst = next((row for row in rows if row["name"] == groups["worst"]), None)
        found[model] = {
            "groups": len(rows),
            "judged": sum(1 for row in rows if row["judged"]),
            "worst": None
            if worst is None
            else {"name": worst["name"] if of in _NAMED_PROPERTIES else None, "score": worst["score"]},
            "gap": groups["gap"],
        }
    return found


def _errors(errors: Mapping[str, Any]) -> dict[str, Any]:
    """Counts and confusions; the examples lead to texts and stay on the page."""
    return {
        "looked_at": errors["looked_at"],
        "below_zero": errors["below_zero"],
        "confusions": errors["confusions"][:CONFUSIONS],
    }


def _fit(report: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: value for name, value in report.items() if name not in ("curve", "geometry")}
    return {**told, "curves": thinned(report)}
