"""From rows to problems: equal texts are one, the gate's rows stay out of the fit, and batches hold positives."""

import numpy as np
import pytest

from registry.row import Row, RowKind
from training import problem
from training.batches import labelled_batches, shuffled_batches
from training.data import Corpus, fit_problem, gate_items, part
from training.errors import DataRefused, FitFailed
from training.generic import generic_texts
from training.problem import LabelledProblem, PairProblem

LETTERS = tuple("abcdefghijklmnopqr")


def sentence(seed: int) -> str:
    return " ".join("".join(word) for word in np.random.default_rng(seed).choice(LETTERS, (5, 6)))


def labelled(rows: int = 120) -> list[Row]:
    return [Row(text=sentence(n), label=f"label{n % 4}") for n in range(rows)]


def test_the_fit_never_sees_a_vector_of_the_gate() -> None:
    rows = [*labelled(), Row(text=sentence(0), label="label1")]
    corpus = Corpus.of(rows, RowKind.LABELLED)
    assert len(corpus.texts) == 120
    parts = part(rows, seed=0)
    # Each vector is marked by the number of its text.
    vectors = np.repeat(np.arange(120, dtype=np.float32)[:, None], 3, axis=1)
    task = fit_problem(corpus, parts, vectors)
    assert isinstance(task, LabelledProblem)
    gate_texts = set(corpus.subject[parts.gate].tolist())
    assert not gate_texts & set(task.vectors[:, 0].astype(int).tolist())
    assert task.vectors[task.fit, 0].astype(int).tolist() == corpus.subject[parts.fit].tolist()
    names = sorted({row.label or "" for row in rows})
    assert [names[code] for code in task.select_labels] == [rows[row].label for row in parts.select]
    items = gate_items(corpus, parts)
    assert items.query_labels == [rows[row].label for row in parts.gate]
    assert len(items.clusters) == len(parts.gate)
    again = problem.from_bytes(problem.to_bytes(task))
    assert isinstance(again, LabelledProblem)
    np.testing.assert_array_equal(again.vectors, task.vectors)
    np.testing.assert_array_equal(again.select, task.select)


def test_pairs_with_many_answers_are_split_by_answer() -> None:
    rows = [Row(anchor=sentence(n), positive=f"answer {n // 2} {sentence(10_000 + n // 2)}") for n in range(200)]
    rows[3] = Row(anchor=sentence(3), positive=rows[3].positive, negative=rows[50].positive)
    corpus, parts = Corpus.of(rows, RowKind.PAIRS), part(rows, seed=0)
    sides = [set(corpus.positive[rows_of].tolist()) for rows_of in (parts.fit, parts.select, parts.gate)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    task = fit_problem(corpus, parts, np.zeros((len(corpus.texts), 3), np.float32))
    assert isinstance(task, PairProblem)
    items = gate_items(corpus, parts)
    assert len(items.index) == len(np.unique(corpus.positive))
    for query, relevant in zip(items.queries, items.relevant, strict=True):
        wanted = {rows[n].positive for n in parts.gate if corpus.subject[n] == query}
        assert {corpus.texts[items.index[place]] for place in relevant} == wanted


def test_answers_that_nearly_agree_are_one_answer_and_no_fitted_negative_is_asked_for_by_the_gate() -> None:
    """Every answer comes in three spellings, some rows have a group of their own, and negatives come from anywhere."""
    answers = [f"{sentence(30_000 + n)} {sentence(31_000 + n)} {sentence(32_000 + n)} {sentence(n)}" for n in range(80)]
    spellings = [lambda a: a, lambda a: "  " + a.upper() + "!", lambda a: a + " now"]
    rows = [
        Row(
            anchor=sentence(40_000 + n),
            positive=spellings[n % 3](answers[n // 3]),
            negative=spellings[(n + 1) % 3](answers[(n // 3 + 7) % 80]),
            group=f"author {n}" if n % 4 == 0 else None,
        )
        for n in range(240)
    ]
    corpus, parts = Corpus.of(rows, RowKind.PAIRS), part(rows, seed=0)
    fit, select, gate = ({n // 3 for n in rows_of} for rows_of in (parts.fit, parts.select, parts.gate))
    assert not fit & gate
    assert not fit & select
    assert len(parts.gate) > 20
    opposed = {n for n in parts.fit.tolist() if (n // 3 + 7) % 80 in gate}
    assert opposed
    assert set(parts.known_negatives.tolist()) == opposed
    # Each vector is marked by the number of its text.
    marks = np.repeat(np.arange(len(corpus.texts), dtype=np.float32)[:, None], 3, axis=1)
    task = fit_problem(corpus, parts, marks)
    assert isinstance(task, PairProblem)
    assert (task.fit_negatives < 0).sum() == len(opposed)
    asked = set(corpus.positive[parts.gate].tolist()) | set(corpus.subject[parts.gate].tolist())
    assert not asked & set(task.vectors[:, 0].astype(int).tolist())


def test_few_answers_asked_for_often_are_known_to_the_fit() -> None:
    rows = [Row(anchor=sentence(n), positive=f"answer {n % 10} {sentence(20_000 + n % 10)}") for n in range(200)]
    corpus, parts = Corpus.of(rows, RowKind.PAIRS), part(rows, seed=0)
    assert set(corpus.positive[parts.gate].tolist()) <= set(corpus.positive[parts.fit].tolist())


def test_rows_that_teach_nothing_are_refused() -> None:
    with pytest.raises(DataRefused, match="too small"):
        part(labelled(6), seed=0)
    rows = [Row(text=sentence(n), label=f"only{n}") for n in range(60)]
    corpus = Corpus.of(rows, RowKind.LABELLED)
    splits = part(labelled(60), seed=0)
    with pytest.raises(DataRefused, match="a label with two rows"):
        fit_problem(corpus, splits, np.zeros((60, 3), np.float32))
    with pytest.raises(FitFailed, match="no known kind"):
        problem.from_bytes(b"\x02\0\0\0\0\0\0\0{}")


def test_labelled_batches_hold_several_rows_of_every_label_they_hold() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(300), 10)
    labels = np.concatenate([labels, [300]])  # and one label with a single row
    batches = labelled_batches(labels, 128, rng)
    seen = set()
    for _ in range(60):
        batch = next(batches)
        assert len(batch) == len(set(batch.tolist())) <= 128
        held = np.bincount(labels[batch])
        assert held[held > 0].max() <= 4
        assert (held == 1).sum() <= 2  # the single row, and the label the batch was filled up with
        seen |= set(labels[batch].tolist())
    assert len(seen) > 290
    few = next(labelled_batches(np.array([0, 0, 1, 1]), 128, rng))
    assert sorted(few.tolist()) == [0, 1, 2, 3]


def test_shuffled_batches_repeat_nothing_inside_an_epoch() -> None:
    batches = shuffled_batches(100, 32, np.random.default_rng(0))
    epoch = np.concatenate([next(batches) for _ in range(3)])
    assert len(set(epoch.tolist())) == 96
    assert sorted(next(shuffled_batches(5, 32, np.random.default_rng(0))).tolist()) == [0, 1, 2, 3, 4]


def test_generic_sentences_are_many_and_different() -> None:
    assert len(set(generic_texts())) == 240
