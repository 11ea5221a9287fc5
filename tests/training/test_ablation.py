"""Ablations: variants in words and files, rows of the gate left alone, one split for all, intervals between them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder.batch import TokenIds
from monitoring.errors import RecipeRefused
from monitoring.recipe import Recipe
from registry.row import Row, RowKind
from tests.training.test_lora_fit import SMALL, small_module
from training import ablation
from training.ablation import Ground, ablate, spread, without_gate
from training.ablation_variants import default_variants, parse_variant, read_variants, variants_of
from training.data import part
from training.problem import Vectors

LABELS = ("refund", "card", "login", "parcel")
QUICK = Recipe(steps=30, hidden=32, batch_size=64, alpha=1.0)
KIND = RowKind.LABELLED


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [
        Row(text=f"{label} question number {n} about {n * 7 % 13} things", label=label)
        for label in LABELS
        for n in range(50)
    ]


def encode(texts: Sequence[str]) -> Vectors:
    """A direction of its label for each text, drowned in noise that follows from the text."""
    centres = np.random.default_rng(1).normal(size=(len(LABELS), 6))
    found = np.empty((len(texts), 40), np.float32)
    for at, text in enumerate(texts):
        draw = np.random.default_rng(sum(map(ord, text)) * 31 + len(text))
        found[at] = draw.normal(size=40)
        label = text.split()[0]
        if label in LABELS:
            found[at, :6] += 2.0 * centres[LABELS.index(label)]
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def quiet(name: str, number: int, share: float) -> None:
    """Nobody is told."""


def test_a_variant_in_words() -> None:
    assert parse_variant("warm: temperature=0.3, loss=triplet") == ("warm", {"temperature": 0.3, "loss": "triplet"})
    assert parse_variant("deep: method=lora, lora.rank=8") == ("deep", {"method": "lora", "lora": {"rank": 8}})
    assert parse_variant("open: alpha=none") == ("open", {"alpha": None})
    for wrong in ("no colon", "x:", "x: steps", ": steps=1", "x: steps="):
        with pytest.raises(RecipeRefused, match="variant"):
            parse_variant(wrong)


def test_variants_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "variants.toml"
    file.write_text('[cold]\ntemperature = 0.05\n["no gate"]\ngate = {min_effect = 0.0}\n')
    assert dict(read_variants(file)) == {"cold": {"temperature": 0.05}, "no gate": {"gate": {"min_effect": 0.0}}}
    file.write_text("steps = 3\n")
    with pytest.raises(RecipeRefused, match="must hold tables"):
        read_variants(file)
    with pytest.raises(RecipeRefused, match="cannot be read"):
        read_variants(tmp_path / "missing.toml")


def test_the_recipe_stands_first_and_what_cannot_be_compared_is_refused() -> None:
    found = variants_of(Recipe(), [("cold", {"temperature": 0.05}), ("deep", {"method": "lora"})], KIND)
    assert [variant.name for variant in found] == ["recipe", "cold", "deep"]
    assert [variant.recipe.method for variant in found] == ["head", "head", "lora"]
    assert [variant.recipe.refit for variant in found] == [False] * 3
    for changes, why in (
        ({"steps": -1}, "variant x: recipe: steps"),
        ({"augment": 1.0}, "adds texts"),
        ({"unlabelled": "pool"}, "adds texts"),
        ({"loss": "infonce"}, "not for labelled"),
    ):
        with pytest.raises(RecipeRefused, match=why):
            variants_of(Recipe(), [("x", changes)], KIND)
    with pytest.raises(RecipeRefused, match="used twice"):
        variants_of(Recipe(), [("recipe", {})], KIND)


@pytest.mark.parametrize("kind", [RowKind.LABELLED, RowKind.PAIRS])
def test_every_default_variant_is_another_recipe(kind: RowKind) -> None:
    found = variants_of(Recipe(), default_variants(Recipe(), kind), kind)
    assert {"no dropout", "no replay", "shape linear", "refit"} <= {variant.name for variant in found}
    assert "no refit" not in {variant.name for variant in found}
    for at, variant in enumerate(found):
        assert all(variant.recipe != other.recipe for other in found[:at]), variant.name


def test_rows_of_the_gate_are_left_alone(rows: list[Row]) -> None:
    gate = {rows[row].text for row in part(rows, 3).gate}
    kept = without_gate(rows, 3)
    assert gate
    assert not gate & {row.text for row in kept}
    asked: list[str] = []

    def told(texts: Sequence[str]) -> Vectors:
        asked.extend(texts)
        return encode(texts)

    ground = Ground.of(rows, KIND, 3, told)
    assert not gate & set(asked)
    assert ground.held_back == len(rows) - len(kept)


def test_variants_are_compared_on_the_same_items(rows: list[Row]) -> None:
    ground = Ground.of(rows, KIND, 0, encode)
    named: list[tuple[str, dict[str, Any]]] = [
        ("same", {"patience": 9}),
        ("nothing learnt", {"learning_rate": 1e-9}),
        ("broken", {"learning_rate": 1.0, "temperature": 0.005, "replay": 0.0}),
    ]
    told: list[tuple[str, int, float]] = []
    result = ablate(ground, variants_of(QUICK, named, KIND), 2, lambda *message: told.append(message))
    recipe, same, nothing, broken = result.outcomes
    assert result.seeds == (0, 1)
    assert {message[:2] for message in told} >= {("recipe", 0), ("recipe", 1), ("same", 1)}
    assert result.against_base(recipe, result.metric).low > 0.02
    equal = result.against_recipe(same, result.metric)
    assert equal is not None
    assert (equal.mean, equal.low, equal.high) == (0.0, 0.0, 0.0)
    assert abs(result.against_base(nothing, result.metric).mean) < 1e-3
    worse = result.against_recipe(nothing, result.metric)
    assert worse is not None
    assert worse.high < 0
    assert broken.fault is None or "collapse" in broken.fault or "finite" in broken.fault
    document = result.to_json()
    assert [variant["name"] for variant in document["variants"]] == ["recipe", "same", "nothing learnt", "broken"]
    assert document["items"] == len(ground.items.queries)
    assert document["variants"][0]["scores"][result.metric] == spread(recipe.means(result.metric))


def test_a_lora_is_fitted_as_one_and_not_taken_for_a_head(rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    def tokens(source: object, texts: Sequence[str], settings: object) -> TokenIds:
        return [[2, *(5 + ord(letter) % 40 for letter in text[:8]), 3] for text in texts]

    monkeypatch.setattr(ablation, "cut_tokens", tokens)
    monkeypatch.setattr(ablation, "load_module", lambda source: small_module())
    monkeypatch.setattr(ablation, "settings_of", lambda recipe: SMALL)
    source: Any = object()
    ground = Ground.of(rows, KIND, 0, lambda texts: np.eye(16, dtype=np.float32)[[len(t) % 16 for t in texts]], source)
    result = ablate(ground, variants_of(QUICK, [("deep", {"method": "lora"})], KIND), 1, quiet)
    deep = result.outcomes[1]
    assert deep.fault is None
    assert not np.array_equal(deep.scores("ndcg_at_10"), result.outcomes[0].scores("ndcg_at_10"))
    without = ablate(
        Ground.of(rows, KIND, 0, encode), variants_of(QUICK, [("deep", {"method": "lora"})], KIND), 1, quiet
    )
    assert without.outcomes[1].fault is not None
    assert "pretrained model" in without.outcomes[1].fault
