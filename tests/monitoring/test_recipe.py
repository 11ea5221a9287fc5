"""Recipes: defaults by kind of rows, files in two formats, and errors that name the field."""

import dataclasses
from pathlib import Path

import pytest

from monitoring.collapse import GeometryLimits
from monitoring.errors import RecipeRefused
from monitoring.gate import GateSettings
from monitoring.limits import GATE, GEOMETRY, gate_settings, laxer_fields
from monitoring.recipe import Recipe
from registry.row import RowKind


def test_a_recipe_survives_its_dictionary() -> None:
    recipe = Recipe.from_mapping({"steps": 50, "temperature": 1, "gate": {"min_effect": 0.02}, "promote": False})
    assert Recipe.from_mapping(recipe.to_dict()) == recipe
    assert recipe.temperature == 1.0
    assert recipe.gate_settings().min_effect == 0.02


def test_what_is_left_open_depends_on_the_rows() -> None:
    labels, pairs = Recipe().resolved(RowKind.LABELLED), Recipe().resolved(RowKind.PAIRS)
    assert (labels.loss, pairs.loss) == ("supcon", "infonce")
    assert labels.temperature is not None
    assert pairs.temperature is not None
    assert labels.temperature > pairs.temperature
    assert Recipe(temperature=0.3).resolved(RowKind.PAIRS).temperature == 0.3
    assert Recipe().resolved(RowKind.UNLABELLED).loss == "infonce"
    with pytest.raises(RecipeRefused, match="unlabelled goes with labelled rows"):
        Recipe(unlabelled="traffic@3").resolved(RowKind.PAIRS)
    with pytest.raises(RecipeRefused, match='"infonce" is not for labelled rows'):
        Recipe(loss="infonce").resolved(RowKind.LABELLED)


def test_losses_and_shapes_are_resolved_once_and_stay() -> None:
    assert Recipe(loss="triplet").resolved(RowKind.LABELLED).loss == "triplet"
    for kind in (RowKind.LABELLED, RowKind.PAIRS):
        hard = Recipe(loss="debiased", shape="low_rank").resolved(kind)
        assert (hard.loss, hard.shape) == ("debiased", "low_rank")
        assert hard.temperature == Recipe().resolved(kind).temperature
        assert hard.resolved(kind) == hard
    with pytest.raises(RecipeRefused, match='"triplet" is not for pairs rows'):
        Recipe(loss="triplet").resolved(RowKind.PAIRS)
    shapes = {hidden: Recipe(hidden=hidden).resolved(RowKind.PAIRS).shape for hidden in (0, 64)}
    assert shapes == {0: "linear", 64: "mlp"}


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"step": 3}, "unknown field step"),
        ({"steps": 0}, "steps must lie between"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"steps": True}, "steps must be a whole number"),
        ({"learning_rate": "fast"}, "learning_rate must be a finite number"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number"),
        ({"temperature": 0}, "temperature must lie"),
        ({"promote": 1}, "promote must be true or false"),
        ({"refit": "yes"}, "refit must be true or false"),
        ({"method": "full"}, 'method must be "auto", "head" or "lora"'),
        ({"lora": 8}, "lora must be a table of LoRA settings"),
        ({"lora": {"r": 8}}, "unknown lora field r; known are alpha,"),
        ({"lora": {"rank": 65}}, "lora.rank must lie between 1 and 64"),
        ({"lora": {"rank": 8.0}}, "lora.rank must be a whole number"),
        ({"lora": {"learning_rate": 0}}, r"lora.learning_rate must lie in \(0, 1\]"),
        ({"lora": {"rslora": 1}}, "lora.rslora must be true or false"),
        ({"lora": {"targets": []}}, "lora.targets must be a list of 1 to 32 names"),
        ({"lora": {"targets": "query"}}, "lora.targets must be a list"),
        ({"lora": {"targets": ["a b"]}}, "lora.targets must be a list"),
        ({"lora": {"precision": "fp16"}}, 'lora.precision must be "auto", "fp32" or "bf16"'),
        ({"lora": {"processes": 17}}, "lora.processes must lie between 1 and 16"),
        ({"method": "head", "lora": {"rank": 8}}, 'lora goes with the methods "lora" and "auto"'),
        ({"lora_budget_s": -1}, "lora_budget_s must lie between 0 and 86400"),
        ({"loss": "hinge"}, 'loss must be "auto", "supcon", "infonce", "debiased" or "triplet"'),
        ({"shape": "deep"}, 'shape must be "auto", "linear", "low_rank" or "mlp"'),
        ({"shape": "mlp", "hidden": 0}, "hidden must be above 0"),
        ({"rank": 0}, "rank must lie between 1 and 1024"),
        ({"rank": 8.0}, "rank must be a whole number"),
        ({"margin": -0.1}, "margin must lie between 0 and 2"),
        ({"prior": 1}, "prior must lie in"),
        ({"hardness": "very"}, "hardness must be a finite number"),
        ({"temperature_schedule": "steps"}, "temperature_schedule must be"),
        ({"temperature_schedule": "cosine"}, "temperature_end goes with the schedules"),
        ({"temperature_end": 0.05}, "temperature_end goes with the schedules"),
        ({"temperature_schedule": "linear", "temperature_end": 3}, "temperature_end must lie between 0.005 and 2"),
        ({"hard_negatives": 65}, "hard_negatives must lie between 0 and 64"),
        ({"refresh": 0}, "refresh must lie between"),
        ({"positive_share": 0.2}, "positive_share must lie between 0.5 and 1"),
        ({"random_share": 1.5}, "random_share must lie between 0 and 1"),
        ({"replay": 101}, "replay must lie between"),
        ({"spread": True}, "spread must be a finite number"),
        ({"covariance": None}, "covariance must be a finite number"),
        ({"alpha": 0}, "alpha must lie"),
        ({"gate": {"effect": 1}}, "unknown gate field effect"),
        ({"gate": {"min_effect": "much"}}, "gate.min_effect must be a finite number"),
        ({"gate": {"min_effect": float("nan")}}, "gate.min_effect must be a finite number"),
        ({"gate": {"margin": float("inf")}}, "gate.margin must lie between 0.0001 and 0.2"),
        ({"gate": {"resamples": 2_000_000_000}}, "gate.resamples must lie between 100 and 100000"),
        ({"gate": {"resamples": 1000.0}}, "gate.resamples must be a whole number"),
        ({"gate": {"margin_items": 10**9}}, "gate.margin_items must lie between 0 and 100"),
        ({"gate": {"min_items": True}}, "gate.min_items must be a whole number"),
        ({"gate": {"min_clusters": 1}}, "gate.min_clusters must lie between 2 and 1000000"),
        ({"gate": {"confidence": 0.5}}, "gate.confidence must lie between 0.6 and 0.9999"),
        ({"gate": {"guards": []}}, "gate.guards must list at least one of"),
        ({"gate": {"guards": "knn_accuracy"}}, "gate.guards must list"),
        ({"gate": {"guards": ["luck"]}}, "gate.guards must list"),
        ({"gate": {"primary": 5}}, "gate.primary must be one of ndcg_at_10, knn_accuracy, nn_accuracy"),
        ({"gate": {"primary": []}}, "gate.primary must be one of"),
        ({"gate": {"geometry": {"max_cosine_rise": 99}}}, "gate.geometry.max_cosine_rise must lie between 0 and 1"),
        ({"gate": {"geometry": {"min_overlap": "0.3"}}}, "gate.geometry.min_overlap must be a finite number"),
        ({"gate": {"geometry": {"overlap": 0.3}}}, "unknown geometry field overlap"),
        ({"gate": {"geometry": 3}}, "gate.geometry must be a table"),
        ({"gate": []}, "gate must be a table"),
    ],
)
def test_mistakes_are_named(mapping: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeRefused, match=said):
        Recipe.from_mapping(mapping)


def test_a_primary_that_pairs_do_not_have_is_refused() -> None:
    recipe = Recipe.from_mapping({"gate": {"primary": "knn_accuracy"}})
    assert recipe.resolved(RowKind.LABELLED).gate_settings().primary == "knn_accuracy"
    with pytest.raises(RecipeRefused, match="not measured on pairs"):
        recipe.resolved(RowKind.PAIRS)


def test_every_field_has_a_range_and_the_defaults_lie_inside() -> None:
    settings = GateSettings()
    assert set(GATE) | {"primary", "guards", "geometry"} == {f.name for f in dataclasses.fields(GateSettings)}
    assert set(GEOMETRY) == {f.name for f in dataclasses.fields(GeometryLimits)}
    assert all(r.check(name, getattr(settings, name)) == getattr(settings, name) for name, r in GATE.items())
    assert gate_settings(dataclasses.asdict(settings)) == settings


@pytest.mark.parametrize(
    ("gate", "laxer"),
    [
        ({}, []),
        ({"min_effect": 0.05, "margin": 0.01, "confidence": 0.99, "seed": 5, "min_items": 200}, []),
        ({"guards": ["knn_accuracy", "nn_accuracy"], "geometry": {"min_overlap": 0.9, "max_cosine_rise": 0.1}}, []),
        ({"min_effect": 0.0}, ["min_effect"]),
        ({"margin": 0.03, "margin_items": 6}, ["margin", "margin_items"]),
        ({"min_items": 29, "min_clusters": 19}, ["min_items", "min_clusters"]),
        ({"confidence": 0.9, "resamples": 9_999}, ["confidence", "resamples"]),
        ({"primary": "nn_accuracy"}, ["primary"]),
        ({"guards": ["nn_accuracy"]}, ["guards"]),
        (
            {"geometry": {"min_overlap": 0.1, "max_cosine_rise": 0.5, "max_norm_error": 1e-4}},
            ["geometry.max_cosine_rise", "geometry.min_overlap"],
        ),
    ],
)
def test_a_gate_that_asks_for_less_is_recognised(gate: dict[str, object], laxer: list[str]) -> None:
    assert laxer_fields(Recipe.from_mapping({"gate": gate}).gate_settings()) == laxer


def test_files_are_read_in_both_formats(tmp_path: Path) -> None:
    toml, json = tmp_path / "recipe.toml", tmp_path / "recipe.json"
    toml.write_text("steps = 40\n[gate]\nmargin = 0.03\nguards = ['nn_accuracy']\n")
    json.write_text('{"steps": 40, "gate": {"margin": 0.03, "guards": ["nn_accuracy"]}}')
    assert Recipe.from_file(toml) == Recipe.from_file(json)
    assert Recipe.from_file(toml).gate_settings().guards == ("nn_accuracy",)


@pytest.mark.parametrize("content", [b"steps = ", b"\xff\xfe", b"steps = 1\n" * 20_000])
def test_broken_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeRefused, match="recipe file"):
        Recipe.from_file(path)
    with pytest.raises(RecipeRefused, match="cannot be read"):
        Recipe.from_file(tmp_path / "absent.toml")
