"""The page of a version: one HTML file that needs nothing else, no script and no network.

Jinja2 escapes every value; the texts and labels of a dataset are hostile input.
"""

import base64
from collections.abc import Mapping
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from training.report.embedding_map import EmbeddingMap
from training.report.formats import CUT, FILTERS, interval, points, signed, signed_interval
from training.report.letters import GROUP_COLOURS, LETTERS
from training.report.material import Material
from training.report.words import VERSIONS, named

MARKER: Final = "driftline.report/1"
"""Stands in the page as its generator, so that a stored document can be told to be one."""
SHOWN_EXAMPLES: Final = 15
SHOWN_CONFUSIONS: Final = 12
SHOWN_GROUPS: Final = 8


def render(found: Material, pictures: Mapping[str, bytes], placed: EmbeddingMap | None) -> bytes:
    """The page as UTF-8.

    Args:
        found: What is told.
        pictures: PNG bytes by name (`training.report.pictures`); one that is missing is said to be.
        placed: The embedding map, for its legend.
    """
    environment = Environment(
        loader=PackageLoader("training.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    encoded = {name: base64.b64encode(data).decode("ascii") for name, data in pictures.items()}
    names = ("differences", "curves", "reliability", "robustness", "map")
    page = environment.get_template("page.html.jinja").render(
        **_view(found, placed), marker=MARKER, cut=CUT, pictures={name: encoded.get(name) for name in names}
    )
    return page.encode("utf-8", "replace")


def _view(found: Material, placed: EmbeddingMap | None) -> dict[str, Any]:
    """What the templates are given."""
    evaluation = found.evaluation
    metrics = named({name for means in evaluation["metrics"].values() for name in means} | {evaluation["primary"]})
    errors = evaluation["errors"]
    return {
        "lineage": found.lineage,
        "dataset": found.dataset,
        "parts": found.parts,
        "verdict": found.verdict,
        "headline": _headline(evaluation, metrics),
        "evaluation": evaluation,
        "metrics": metrics,
        "classification": _classification(evaluation["classification"]),
        "fit_words": _fit_words(found.fit),
        "recipe": sorted(found.recipe.items()),
        "changed": found.changed,
        "subgroups": {of: _groups(models) for of, models in evaluation["subgroups"].items()},
        "map": None if placed is None else _map(placed),
        "changes": found.neighbourhoods.to_json(),
        "moved": _moved(found),
        "versions": evaluation["versions"],
        "version_measures": VERSIONS,
        "errors": errors["candidate"],
        "base_errors": errors.get("base"),
        "examples": [_example(found, row) for row in errors["candidate"]["examples"][:SHOWN_EXAMPLES]],
        "confusions": _confusions(errors),
    }


def _headline(evaluation: Mapping[str, Any], metrics: Mapping[str, str]) -> str:
    """The primary metric of the candidate, next to its rivals, in a sentence."""
    primary = evaluation["primary"]
    mine = evaluation["metrics"]["candidate"][primary]
    rivals = [
        f"{signed(found[primary]['mean'])} points against the {rival} ({signed_interval(found[primary])})"
        for rival, found in evaluation["differences"].items()
        if primary in found
    ]
    compared = f", {' and '.join(rivals)}" if rivals else ""
    return f"{metrics[primary]} of the candidate is {points(mine['mean'])} points ({interval(mine)}){compared}."


def _fit_words(fit: Mapping[str, Any]) -> str:
    """How the fit went, in a few sentences."""
    ends = {
        "steps": "It ran to its last step",
        "patience": "It ended when neither score nor loss had become better for a while",
        "time": "It ended when its time budget was spent",
        "collapse": "It was stopped because the vectors collapsed",
    }
    told = (
        f"The selection score went from {points(fit['base_score'])} to {points(fit['select_score'])} points. "
        f"{ends.get(fit['stopped'], 'It ended')}; the weights of step {fit['best_step']} were kept"
    )
    alpha = fit.get("alpha")
    share = "" if alpha is None else f", with {100 * alpha:.0f} % of the residual"
    again = " The head was then fitted once more on the selection rows too." if fit.get("refitted") else ""
    why = (fit.get("why") or {}).get("text", "")
    method = f"The method is {fit['method']}: {why}. " if why else ""
    return f"{method}{told}{share}, after {fit['seconds']:.1f} s.{again}"


def _classification(found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    words = {"knn": "k-NN", "logistic": "logistic regression"}
    return [
        {"classifier": words.get(name, name), "model": model, **told}
        for name in dict.fromkeys(name for classifiers in (found or {}).values() for name in classifiers)
        for model, classifiers in (found or {}).items()
        if (told := classifiers.get(name))
    ]


def _groups(models: Mapping[str, Any]) -> dict[str, Any]:
    """The groups the candidate serves worst, with every contender's score."""
    scores = {model: {row["name"]: row["score"] for row in told["groups"]} for model, told in models.items()}
    rows = models["candidate"]["groups"]
    ordered = sorted(rows, key=lambda row: (not row["judged"], row["score"]["mean"], row["name"]))
    shown = ordered[:SHOWN_GROUPS]
    return {
        "rows": [
            {
                "name": row["name"],
                "items": row["score"]["items"],
                "judged": row["judged"],
                "scores": {model: told.get(row["name"]) for model, told in scores.items()},
            }
            for row in shown
        ],
        "more": len(ordered) - len(shown),
        "gaps": {model: told["gap"] for model, told in models.items()},
    }


def _map(placed: EmbeddingMap) -> dict[str, Any]:
    caption = (
        "Judged questions and their answers, joined by lines: the shorter the line, the nearer the answer."
        if len(placed.links)
        else "Judged rows. Labels that are confused most often stand out, filled up with the most frequent ones; a "
        "letter stands at the mean of its label."
    )
    groups = [
        {"letter": letter, "colour": colour, "name": name}
        for letter, colour, name in zip(LETTERS, GROUP_COLOURS, placed.names, strict=False)
    ]
    return {"caption": caption, "groups": groups, "explained": placed.explained}


def _moved(found: Material) -> dict[str, list[dict[str, Any]]]:
    titles = {"mended": "Nearest row became right", "broken": "Nearest row ceased to be right"}
    texts = found.corpus.texts
    return {
        title: [
            {"query": texts[c.query], "before": texts[c.before], "after": texts[c.after], "gain": c.gain}
            for c in found.neighbourhoods.examples[name]
        ]
        for name, title in titles.items()
    }


def _example(found: Material, row: Mapping[str, Any]) -> dict[str, Any]:
    texts = {"text": found.subject(row["row"])} | {side: found.answer(row[side]) for side in ("right", "wrong")}
    return {**row, **texts}


def _confusions(errors: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The candidate's confusions, and how often the base has the same one among its most frequent."""
    before = {(row["label"], row["taken_for"]): row["items"] for row in errors.get("base", {}).get("confusions", [])}
    listed = errors["candidate"]["confusions"][:SHOWN_CONFUSIONS]
    return [{**row, "base": before.get((row["label"], row["taken_for"]), "–")} for row in listed]
