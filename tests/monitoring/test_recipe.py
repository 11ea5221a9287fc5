"""Recipes: defaults by kind of rows, files in two formats, and errors that name the field."""

from pathlib import Path

import pytest

from monitoring.errors import RecipeRefused
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
    with pytest.raises(RecipeRefused, match="unlabelled rows"):
        Recipe().resolved(RowKind.UNLABELLED)
    with pytest.raises(RecipeRefused, match='"infonce" is not for labelled rows'):
        Recipe(loss="infonce").resolved(RowKind.LABELLED)


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
        ({"method": "lora"}, 'method must be "head"'),
        ({"loss": "triplet"}, "loss must be"),
        ({"alpha": 0}, "alpha must lie"),
        ({"gate": {"effect": 1}}, "unknown gate field effect"),
        ({"gate": {"min_effect": "much"}}, "gate: a value"),
        ({"gate": []}, "gate must be a table"),
    ],
)
def test_mistakes_are_named(mapping: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeRefused, match=said):
        Recipe.from_mapping(mapping)


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
