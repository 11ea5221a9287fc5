"""What is added to a fit: it stays only where the selection score is no lower, and nothing held out is among it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from monitoring.recipe import Recipe
from registry.near import normal_form
from registry.row import Row, RowKind
from training.data import Corpus, fit_problem, part
from training.extra import fit_with_extra
from training.extra_texts import extra_arrays, extra_texts, with_wordings
from training.fit import fit_head
from training.problem import LabelledProblem, PairProblem, from_bytes, to_bytes
from training.weak import doubted, without_doubted

QUICK = Recipe(steps=60, hidden=32, batch_size=256, refit=False).resolved(RowKind.LABELLED)
SUBJECTS = ("card", "refund", "transfer", "password", "statement", "balance")
OPENINGS = ("please could you tell me", "i would like to know", "can somebody explain to me", "hello, what about")
ENDINGS = ("in the app today", "from my other account", "when i travel abroad", "after the weekend", "at the counter")


def quiet(_: dict[str, Any]) -> None:
    pass


def rows() -> list[Row]:
    texts = [(f"{opening} my {noun} {end}", noun) for noun in SUBJECTS for opening in OPENINGS for end in ENDINGS]
    return [Row(text=text, label=label) for text, label in texts]


def clustered(seed: int = 0) -> tuple[LabelledProblem, np.ndarray]:
    """Three fitted rows and twenty to select by of each of eight clusters, and a pool of the same clusters."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(8), 73)
    drawn = rng.normal(size=(8, 12))[labels] + rng.normal(size=(len(labels), 12)) * 0.85
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    place = np.arange(len(labels)) % 73
    fit, select = np.flatnonzero(place < 3), np.flatnonzero((place >= 3) & (place < 23))
    used = np.concatenate([fit, select])
    numbers = np.arange(len(used))
    problem = LabelledProblem(vectors[used], numbers[:24], labels[fit], numbers[24:], labels[select])
    return problem, vectors[place >= 23]


def test_pseudo_labels_help_where_rows_are_few_and_the_report_says_by_how_much() -> None:
    problem, pool = clustered()
    told: list[dict[str, Any]] = []
    fitted = fit_with_extra(problem, QUICK, told.append, pool=pool)
    extra = fitted.report["extra"]["pseudo_labels"]
    assert extra["kept"]
    assert extra["with"] > extra["without"]
    assert extra["with"] == fitted.report["select_score"] >= extra["without"]
    assert extra["without"] == fit_head(problem, QUICK, quiet).report["select_score"]
    assert 0 < extra["taken"] <= len(pool)
    steps = [message["step"] for message in told]
    assert steps == sorted(steps)
    assert steps[-1] <= told[-1]["steps"] == 2 * QUICK.steps


def test_without_anything_to_add_it_is_the_plain_fit(labelled_problem: Callable[..., LabelledProblem]) -> None:
    problem = labelled_problem()
    plain, same = fit_head(problem, QUICK, quiet), fit_with_extra(problem, QUICK, quiet)
    assert plain.weights.to_bytes() == same.weights.to_bytes()
    assert "extra" not in same.report


def test_an_addition_that_lowers_the_score_is_left_out(labelled_problem: Callable[..., LabelledProblem]) -> None:
    problem = labelled_problem(per_class=30)
    wrong = (problem.fit_labels + 1) % 12
    poisoned = problem.with_extra(problem.vectors[problem.fit], wrong, np.ones(len(wrong), np.float32))
    fitted = fit_with_extra(poisoned, QUICK, quiet)
    assert fitted.report["extra"]["augmented"]["kept"] is False
    assert fitted.weights.to_bytes() == fit_head(poisoned.plain(), QUICK, quiet).weights.to_bytes()


def test_doubted_rows_weigh_less_and_are_left_out_where_they_do_harm(
    labelled_problem: Callable[..., LabelledProblem],
) -> None:
    problem = labelled_problem(per_class=30)
    rng = np.random.default_rng(0)
    weak = rng.random(len(problem.fit)) < 0.5
    labels = np.where(weak, rng.integers(0, 12, len(weak)), problem.fit_labels)
    weights = np.where(weak, 0.9, 1.0).astype(np.float32)
    noisy = dataclasses.replace(problem, fit_labels=labels, fit_weights=weights)
    told = fit_with_extra(noisy, QUICK, quiet).report["extra"]["weak_labels"]
    assert told["rows"] == int(weak.sum())
    assert told["expected_precision"] == pytest.approx(0.9)
    assert not told["kept"]
    bare = without_doubted(noisy)
    assert bare is not None
    assert len(bare.fit) == int((~weak).sum())
    assert bare.fit_weights is None
    assert without_doubted(problem) is None
    assert doubted(problem) == {"rows": 0, "expected_precision": None}
    # With next to no weight they do next to no harm.
    light = dataclasses.replace(noisy, fit_weights=np.where(weak, 1e-3, 1.0).astype(np.float32))
    scores = [fit_head(p, QUICK, quiet).report["select_score"] for p in (noisy, light)]
    assert scores[1] > scores[0]


def test_no_extra_text_repeats_or_resembles_a_held_out_row_and_the_budget_holds() -> None:
    dataset = rows()
    corpus, parts = Corpus.of(dataset, RowKind.LABELLED), part(dataset, seed=0)
    held = [dataset[row].subject for row in np.concatenate([parts.select, parts.gate])]
    fresh = "a sentence on quite another matter, the weather of last spring"
    pool = [*held, held[0].upper() + "!", fresh, fresh, dataset[parts.fit[0]].subject]
    recipe = Recipe(augment=0.5)
    extra = extra_texts(corpus, parts, recipe, pool)
    assert extra.pool == [fresh]
    assert 0 < len(extra.wordings) <= int(np.ceil(0.5 * len(parts.fit)))
    forms = {normal_form(text) for text in held}
    assert not forms & {normal_form(wording.text) for wording in extra.wordings}
    assert extra == extra_texts(corpus, parts, recipe, pool)
    assert extra.report["unlabelled"]["near_held_out_or_repeated"] == len(pool) - 1
    nothing = extra_texts(corpus, parts, Recipe(), [])
    assert (nothing.wordings, nothing.pool, nothing.report) == ([], [], {})


@pytest.mark.parametrize("kind", ["labels", "pairs"])
def test_wordings_join_as_rows_of_their_label_or_answer_and_never_as_neighbours(kind: str) -> None:
    dataset = rows()
    if kind == "pairs":
        dataset = [Row(anchor=row.text, positive=f"how to deal with a {row.label}") for row in dataset]
    corpus, parts = Corpus.of(dataset, RowKind.LABELLED if kind == "labels" else RowKind.PAIRS), part(dataset, 0)
    rng = np.random.default_rng(0)

    def unit(n: int) -> np.ndarray:
        drawn = rng.normal(size=(n, 8))
        return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)

    task = fit_problem(corpus, parts, unit(len(corpus.texts)))
    extra = extra_texts(corpus, parts, Recipe(augment=0.3), [])
    vectors = unit(len(extra.wordings))
    fitted = task.fit if isinstance(task, LabelledProblem) else task.fit_anchors
    vectors[0] = task.vectors[fitted[extra.wordings[0].of]]  # one that the backbone cannot tell from its text
    more = with_wordings(task, extra_arrays(extra, vectors))
    assert more.extras == len(extra.wordings) - 1
    whole, of = more.whole(), np.array([wording.of for wording in extra.wordings[1:]])
    if isinstance(whole, LabelledProblem) and isinstance(task, LabelledProblem):
        assert whole.fit_labels[len(task.fit) :].tolist() == task.fit_labels[of].tolist()
        assert whole.weights().tolist() == [1.0] * len(whole.fit)
    elif isinstance(whole, PairProblem) and isinstance(task, PairProblem):
        assert whole.fit_positives[len(fitted) :].tolist() == task.fit_positives[of].tolist()
    again = from_bytes(to_bytes(more))
    assert again.extras == more.extras
    assert more.plain().extras == 0


def test_doubted_rows_are_fitted_with_their_weight_and_never_choose_or_judge() -> None:
    dataset = rows()
    weak = set(range(0, len(dataset), 3))
    dataset = [dataclasses.replace(row, confidence=0.6) if at in weak else row for at, row in enumerate(dataset)]
    corpus, parts = Corpus.of(dataset, RowKind.LABELLED), part(dataset, seed=0)
    assert not weak & set(np.concatenate([parts.select, parts.gate]).tolist())
    task = fit_problem(corpus, parts, np.eye(len(corpus.texts), dtype=np.float32))
    assert isinstance(task, LabelledProblem)
    assert task.weights().tolist() == pytest.approx([0.6 if row in weak else 1.0 for row in parts.fit])
