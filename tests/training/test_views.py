"""Rows without labels as pairs of views: texts to fit reworded, held-out ones perturbed, and a fit on them."""

import dataclasses
from typing import Any

import numpy as np
import torch

from monitoring.perturbations import KINDS, perturb
from monitoring.recipe import Recipe
from registry.row import Row, RowKind
from training.data import fit_problem, part
from training.feature_views import feature_views
from training.fit import fit_head
from training.problem import PairProblem
from training.views import SEVERITY, view_corpus

NOUNS = ["card", "refund", "transfer", "password", "statement", "balance", "account", "invoice", "receipt", "limit"]
ENDS = ("in the app today", "from my other account", "when i travel abroad", "after the weekend", "at the counter")
ROWS = [
    Row(text=f"{opening} my {noun} {end}")
    for noun in NOUNS
    for opening in ("please could you tell me about", "i would like to know, if possible, how to check")
    for end in ENDS
]


def test_every_text_answers_another_form_of_itself_and_judging_forms_are_not_those_of_the_fit() -> None:
    parts = part(ROWS, seed=0)
    corpus = view_corpus(ROWS, parts, seed=0)
    assert corpus.kind is RowKind.PAIRS
    assert corpus.views
    assert [corpus.texts[number] for number in corpus.positive] == [row.text for row in ROWS]
    held = set(np.concatenate([parts.select, parts.gate]).tolist())
    differ = 0
    for at, row in enumerate(ROWS):
        view = corpus.texts[corpus.subject[at]]
        forms = {perturb([row.subject], kind, SEVERITY)[0] for kind in KINDS}
        differ += view != row.text
        if at in held:
            assert view in forms
    assert differ >= 0.95 * len(ROWS)
    again = view_corpus(ROWS, parts, seed=0)
    assert again.texts == corpus.texts


def test_a_text_that_cannot_be_reworded_is_its_own_view() -> None:
    rows = [*ROWS, Row(text="7")]
    parts = dataclasses.replace(part(ROWS, seed=0), fit=np.append(part(ROWS, seed=0).fit, len(ROWS)))
    corpus = view_corpus(rows, parts, seed=0)
    assert corpus.subject[-1] == corpus.positive[-1]


def test_feature_views_are_unit_rows_that_lack_a_share_of_the_components() -> None:
    torch.manual_seed(0)
    base = torch.nn.functional.normalize(torch.randn(200, 100), dim=1)
    view = feature_views(base, 0.3)
    assert torch.allclose(view.norm(dim=1), torch.ones(200), atol=1e-5)
    assert abs(float((view == 0).float().mean()) - 0.3) < 0.02
    kept = view != 0
    ratio = torch.where(kept, view / base, torch.nan)
    assert float((ratio.nan_to_num().amax(dim=1) - torch.where(kept, ratio, torch.inf).amin(dim=1)).abs().max()) < 1e-3


def test_a_fit_on_views_finds_texts_from_careless_forms_of_themselves() -> None:
    parts = part(ROWS, seed=0)
    corpus = view_corpus(ROWS, parts, seed=0)
    rng = np.random.default_rng(0)
    own = rng.normal(size=(len(ROWS), 32))
    noise = rng.normal(size=(len(corpus.texts), 32)) * 1.5
    noise[:, :16] *= 0.2  # what a view leaves alone
    vectors = np.zeros((len(corpus.texts), 32))
    for at in range(len(ROWS)):
        vectors[corpus.subject[at]] = own[at] + noise[corpus.subject[at]]
        vectors[corpus.positive[at]] = own[at]
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    task = fit_problem(corpus, parts, unit)
    assert isinstance(task, PairProblem)
    recipe = Recipe(steps=80, hidden=0, refit=False, feature_dropout=0.1).resolved(RowKind.UNLABELLED)
    report: dict[str, Any] = fit_head(task, recipe, lambda _: None).report
    assert report["select_score"] > report["base_score"]
