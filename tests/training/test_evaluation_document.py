"""What is measured of every contender, the document of it, and the gate's verdict on it, on small made-up datasets."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints, is_typeddict

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from monitoring.classifier import fit_logistic
from monitoring.error_analysis import margins_by_label
from monitoring.gate import Contender, Outcome, judge
from monitoring.recipe import Recipe
from monitoring.retrieval import hits_by_label, ndcg
from monitoring.robustness import designed
from registry.row import Row, RowKind
from training import evaluation_document, evaluation_scores
from training.contenders import Model
from training.data import Corpus, Parts, part
from training.evaluation import leakage_of
from training.evaluation_run import PERTURBED, Measured, measure, verdict_of
from training.evaluation_scores import ROBUSTNESS, assess
from training.generic import generic_texts

Vectors = np.ndarray[Any, Any]
WORDS = ("refund", "parcel", "login", "invoice", "garden", "engine")
RECIPE = Recipe.from_mapping({"gate": {"min_items": 30, "resamples": 1_000}})


def unit(x: Vectors) -> Vectors:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def encoder(strength: float) -> Callable[[Sequence[str]], Vectors]:
    """A bag of words: every word has a direction of its own, those of WORDS are `strength` times as long."""
    known: dict[str, Vectors] = {}

    def direction(word: str) -> Vectors:
        if word not in known:
            seed = [ord(letter) for letter in word]
            known[word] = np.random.default_rng(seed).normal(size=48) * (strength if word in WORDS else 1.0)
        return known[word]

    def encode(texts: Sequence[str]) -> Vectors:
        return unit(np.stack([sum((direction(w) for w in text.lower().split()), np.ones(48)) for text in texts]))

    return encode


@dataclasses.dataclass
class Case:
    """A dataset, what was measured on it, and its document."""

    rows: list[Row]
    corpus: Corpus
    parts: Parts
    models: dict[str, Model]
    measured: Measured
    told: list[tuple[float, str]]

    @property
    def document(self) -> dict[str, Any]:
        return dict(self.measured.document(self.corpus, self.parts, RECIPE))


def case_of(rows: list[Row], kind: RowKind, strengths: dict[str, float]) -> Case:
    corpus, parts = Corpus.of(rows, kind), part(rows, seed=0)
    models = {}
    for name, strength in strengths.items():
        encode = encoder(strength)
        models[name] = Model(encode(corpus.texts), encode(generic_texts()), encode)
    told: list[tuple[float, str]] = []
    measured = measure(corpus, rows, parts, models, RECIPE, lambda share, text: told.append((share, text)))
    return Case(rows, corpus, parts, models, measured, told)


def sentence(rng: np.random.Generator, about: str) -> str:
    others = [f"w{number}" for number in rng.integers(0, 400, 7)]
    others.insert(int(rng.integers(0, 8)), about)
    return " ".join(others)


@pytest.fixture(scope="module")
def labelled() -> Case:
    rng = np.random.default_rng(0)
    rows = [
        Row(text=sentence(rng, word), label=f"topic {word}", group=f"customer {rng.integers(0, 120)}")
        for word in WORDS
        for _ in range(70)
    ]
    return case_of(rows, RowKind.LABELLED, {"candidate": 4.0, "base": 1.0, "champion": 1.2})


@pytest.fixture(scope="module")
def pairs() -> Case:
    rng = np.random.default_rng(1)
    rows = []
    for n in range(260):
        told = sentence(rng, WORDS[n % 6])
        rows.append(Row(anchor=" ".join(rng.permutation(told.split())[:5]), positive=f"{told} step{n}"))
    return case_of(rows, RowKind.PAIRS, {"base": 1.0, "candidate": 1.1})


@pytest.fixture(params=["labelled", "pairs"])
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found


def test_every_contender_is_measured_on_the_same_items(case: Case) -> None:
    shares = [share for share, _ in case.told]
    assert shares == [number / len(case.models) for number in range(len(case.models))]
    assert set(case.measured.found) == set(case.models)
    metrics = {name: set(found.scores) for name, found in case.measured.found.items()}
    assert len({frozenset(named) for named in metrics.values()}) == 1
    expected = {"ndcg_at_10", "mrr_at_10", "precision_at_10", "recall_at_1", "recall_at_5", "recall_at_10"}
    expected |= {"nn_accuracy", ROBUSTNESS}
    if case.corpus.labels:
        expected |= {"knn_accuracy", "logistic_accuracy", "few_shot_accuracy", "calibration"}
    assert metrics["base"] == expected
    for found in case.measured.found.values():
        for scores in found.scores.values():
            assert scores.shape == (len(case.measured.items.queries),)
            assert ((scores >= 0) & (scores <= 1 + 1e-12)).all()


def test_one_contender_is_measured_as_its_parts_say(labelled: Case) -> None:
    corpus, parts, items = labelled.corpus, labelled.parts, labelled.measured.items
    model = labelled.models["champion"]
    index, queries = model.texts[items.index], model.texts[items.queries]
    design = designed([corpus.texts[number] for number in items.queries], most=PERTURBED, seed=RECIPE.seed)
    perturbed = model.encode(design.texts)
    found = assess(corpus, parts, items, model.texts, design, perturbed, RECIPE.seed)
    again = labelled.measured.found["champion"]
    assert {name: scores.tolist() for name, scores in found.scores.items()} == {
        name: scores.tolist() for name, scores in again.scores.items()
    }
    truth = np.array(items.query_labels)
    fitted = fit_logistic(index, items.index_labels).predict(queries).named()
    assert found.scores["logistic_accuracy"].tolist() == (np.array(fitted) == truth).astype(float).tolist()
    theirs = LogisticRegression(max_iter=1_000).fit(index, items.index_labels).score(queries, truth)
    assert found.scores["logistic_accuracy"].mean() == pytest.approx(theirs, abs=0.1)
    asked = design.items()
    hits = ndcg(hits_by_label(index, items.index_labels, perturbed, truth[asked].tolist()))
    for row in found.robustness.rows:
        at = design.parted(hits)[row.kind, row.severity]
        assert row.score == pytest.approx(at.mean())
    assert found.robustness.clean == pytest.approx(found.scores["ndcg_at_10"].mean())
    assert found.robustness.items.tolist() == found.scores[ROBUSTNESS].tolist()
    margins = margins_by_label(index, items.index_labels, queries, items.query_labels)
    assert found.margins.values.tolist() == margins.values.tolist()
    assert found.examined.tolist() == list(range(len(queries)))


def test_work_is_bounded_where_there_is_much(labelled: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, parts, items = labelled.corpus, labelled.parts, labelled.measured.items
    model = labelled.models["base"]
    design = designed([corpus.texts[number] for number in items.queries], most=0)
    monkeypatch.setattr(evaluation_scores, "LOGISTIC_VALUES", 6 * 50)
    monkeypatch.setattr(evaluation_scores, "FEW_SHOT_VALUES", 100)
    monkeypatch.setattr(evaluation_scores, "EXAMINED", 20)
    found = assess(corpus, parts, items, model.texts, design, model.encode(design.texts), 3)
    assert found.logistic is not None
    assert found.logistic.rows == 50
    assert found.few_shot is None
    assert "few_shot_accuracy" not in found.scores
    assert len(found.examined) == len(found.margins.values) == 20
    assert found.examined.tolist() == sorted(set(found.examined.tolist()))


def conforms(value: Any, kind: Any, place: str) -> None:
    """The value has exactly the keys that the typed dictionary names, at every depth."""
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        assert isinstance(value, dict), place
        assert set(value) == set(hints), place
        for name, inner in hints.items():
            conforms(value[name], inner, f"{place}.{name}")
        return
    origin, arguments = getattr(kind, "__origin__", None), getattr(kind, "__args__", ())
    if origin is dict and isinstance(value, dict):
        for name, inner in value.items():
            conforms(inner, arguments[1], f"{place}.{name}")
    elif origin is list and isinstance(value, list):
        for number, inner in enumerate(value):
            conforms(inner, arguments[0], f"{place}[{number}]")
    elif type(None) in arguments:
        if value is not None:
            conforms(value, next(a for a in arguments if a is not type(None)), place)
    elif kind is float:
        assert isinstance(value, float), place
    elif isinstance(kind, type) and origin is None and kind is not Any:
        assert isinstance(value, kind), place


def test_the_document_is_what_its_types_say_and_plain_json(case: Case) -> None:
    document = case.document
    conforms(document, evaluation_document.Evaluation, "evaluation")
    for told in (document["classification"] or {}).values():
        conforms(told["knn"], evaluation_document.Classification, "knn")
        conforms(told["logistic"], evaluation_document.Logistic, "logistic")
    written = json.dumps(document, allow_nan=False)
    assert json.loads(written) == document
    assert document == case.document, "repeating it gives the same"
    for text in case.corpus.texts:
        assert text not in written, "row numbers lead to texts; the document holds none"
    names = [name for name in ("base", "candidate", "champion") if name in case.models]
    assert document["contenders"] == names
    for key in ("metrics", "robustness", "general", "errors"):
        assert list(document[key]) == names


def test_its_numbers_are_those_of_the_items(case: Case) -> None:
    document, measured = case.document, case.measured
    ours = measured.found["candidate"].scores
    for name, found in measured.found.items():
        for metric, scores in found.scores.items():
            assert document["metrics"][name][metric]["mean"] == pytest.approx(scores.mean())
            if name != "candidate":
                differs = document["differences"][name][metric]
                assert differs["mean"] == pytest.approx((ours[metric] - scores).mean())
                assert differs["low"] <= differs["mean"] <= differs["high"]
    parts = case.parts
    assert document["rows"] == {
        "fit": len(parts.fit),
        "select": len(parts.select),
        "judged": len(parts.judged),
        "items": len(measured.items.queries),
        "clusters": len(np.unique(measured.items.clusters)),
    }
    assert document["general"]["base"]["neighbor_overlap"] == 1.0
    assert document["general"]["base"]["similarity_correlation"]["mean"] == pytest.approx(1.0)
    for name, columns in ((n, document["subgroups"][c][n]) for c in document["subgroups"] for n in case.models):
        total = sum(group["score"]["items"] for group in columns["groups"])
        weighed = sum(group["score"]["items"] * group["score"]["mean"] for group in columns["groups"])
        assert total == document["rows"]["items"]
        assert weighed / total == pytest.approx(document["metrics"][name][document["primary"]]["mean"])
    assert 0 < document["shift"]["far"]["base"]["items"] <= document["rows"]["items"] / 2


def test_a_champion_is_compared_by_the_neighbours_of_the_judged_items(labelled: Case, pairs: Case) -> None:
    assert pairs.document["versions"] is None
    found = labelled.document["versions"]
    items = labelled.measured.items
    assert (found["probes"], found["rows"]) == (len(items.queries), len(items.index))
    lists = []
    for name in ("champion", "candidate"):
        vectors = labelled.models[name].texts
        near = np.argsort(-(vectors[items.queries] @ vectors[items.index].T), axis=1, kind="stable")[:, :10]
        lists.append([set(row) for row in near.tolist()])
    overlap = np.mean([len(a & b) / len(a | b) for a, b in zip(*lists, strict=True)])
    assert found["measures"]["jaccard_at_10"]["mean"] == pytest.approx(overlap, abs=2e-3)
    assert found["measures"]["jaccard_at_10"]["clusters"] == len(np.unique(items.clusters))


def test_examples_lead_to_judged_rows_and_to_rows_that_answer_them(labelled: Case) -> None:
    judged = {int(row) + 1 for row in labelled.parts.judged}
    fitted = {int(row) + 1 for row in labelled.parts.fit}
    for name, errors in labelled.document["errors"].items():
        margins = [example["margin"] for example in errors["examples"]]
        assert margins == sorted(margins)
        assert len(margins) == 20
        for example in errors["examples"]:
            row = labelled.rows[example["row"] - 1]
            assert example["row"] in judged
            assert {example["right"], example["wrong"]} <= fitted
            assert row.label == example["label"] == labelled.rows[example["right"] - 1].label
            assert labelled.rows[example["wrong"] - 1].label == example["wrong_label"] != row.label
            assert example["margin"] == pytest.approx(example["right_cosine"] - example["wrong_cosine"])
            assert name != "base" or example["margin"] == example["base_margin"]


def test_notes_say_what_was_not_measured(labelled: Case, pairs: Case) -> None:
    with_labels, without = labelled.document, pairs.document
    assert set(with_labels["subgroups"]) == {"label", "group", "length", "novelty"}
    assert set(without["subgroups"]) == {"length", "novelty"}
    assert without["classification"] is without["few_shot"] is without["calibration"] is None
    assert without["shift"]["rows_with_group"] == without["shift"]["groups_unseen"] == 0
    assert with_labels["shift"]["rows_with_group"] == len(labelled.parts.judged)
    assert any("pairs have no labels" in note for note in without["notes"])
    assert any("name no group" in note for note in without["notes"])
    assert any("new groups" in note for note in with_labels["notes"])
    assert all(errors["confusions"] == [] for errors in without["errors"].values())


def test_the_verdict_is_the_gates_on_the_same_scores(labelled: Case) -> None:
    measured = labelled.measured
    leakage = leakage_of(labelled.corpus, labelled.parts, RECIPE)
    found = verdict_of(measured.arrays(), RECIPE, leakage, 2)
    compared = {
        name: Contender(name, assessed.scores, measured.generic[name]) for name, assessed in measured.found.items()
    }
    direct = judge(
        compared["candidate"],
        compared["champion"],
        compared["base"],
        settings=RECIPE.gate_settings(),
        clusters=measured.items.clusters,
        groups=measured.groups,
        leakage=leakage,
        use=2,
    )
    assert json.dumps(found.to_json()) == json.dumps(direct.to_json())
    codes = {reason.code for reason in found.reasons}
    assert {"ndcg_at_10_better", "no_leakage", "gate_set_use", "groups_kept"} <= codes
    assert {code.rsplit("_", 1)[0] for code in codes} >= {"knn_accuracy", "robustness", "calibration"}
    told = json.dumps(found.to_json())
    assert not any(f"topic {word}" in told or word in told for word in WORDS), "no label is named"
    assert "customer" not in told


def test_a_leak_fails_and_the_base_itself_is_no_improvement(labelled: Case) -> None:
    arrays = labelled.measured.arrays()
    leaking = dataclasses.replace(labelled.parts, fit=np.append(labelled.parts.fit, labelled.parts.judged[0]))
    failed = verdict_of(arrays, RECIPE, leakage_of(labelled.corpus, leaking, RECIPE), 1)
    assert failed.outcome is Outcome.FAIL
    assert "leakage" in {reason.code for reason in failed.reasons}
    clean = leakage_of(labelled.corpus, labelled.parts, RECIPE)
    same = {key: array for key, array in arrays.items() if ".candidate" not in key and ".champion" not in key}
    same |= {key.replace(".base", ".candidate"): array for key, array in same.items() if ".base" in key}
    assert verdict_of(same, RECIPE, clean, 1).outcome is Outcome.INCONCLUSIVE
    spent = verdict_of(arrays, RECIPE, clean, 1_000)
    assert spent.outcome is not Outcome.PASS
    assert "gate_set_spent" in {reason.code for reason in spent.reasons}


def test_what_the_gate_needs_is_numbers_alone(labelled: Case) -> None:
    arrays = labelled.measured.arrays()
    assert all(array.dtype.kind in "fiu" for array in arrays.values())
    assert {key for key in arrays if key.startswith("groups.")} == {
        "groups.label", "groups.group", "groups.length", "groups.novelty"
    }  # fmt: skip
