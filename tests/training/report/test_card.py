"""The model card: it keeps its stated schema, holds the numbers, and quotes no text of the dataset."""

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from registry.row import RowKind
from training.report.card import SCHEMA, card_bytes, model_card
from training.report.material import Material
from training.report.schema import CARD_SCHEMA


def strings(value: Any) -> list[str]:
    """Every string of a document, keys too."""
    if isinstance(value, dict):
        return [*value, *(found for inner in value.values() for found in strings(inner))]
    if isinstance(value, list):
        return [found for inner in value for found in strings(inner)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize(("kind", "champion"), [(RowKind.LABELLED, True), (RowKind.PAIRS, False)])
def test_the_card_keeps_its_schema_and_quotes_no_text(
    make_material: Callable[..., Material], kind: RowKind, champion: bool
) -> None:
    material = make_material(kind, champion)
    card = json.loads(card_bytes(model_card(material)))
    jsonschema.Draft202012Validator.check_schema(CARD_SCHEMA)
    jsonschema.validate(card, CARD_SCHEMA)
    assert card["schema"] == SCHEMA == CARD_SCHEMA["properties"]["schema"]["const"]
    assert not set(strings(card)) & set(material.corpus.texts)
    told = "\n".join(strings(card))
    assert "alert('text')" not in told
    assert "nothing wrong with this one" not in told


def test_the_card_holds_the_numbers(make_material: Callable[..., Material]) -> None:
    material = make_material()
    card = model_card(material)
    (index,) = card["model-index"]
    (result,) = index["results"]
    assert index["name"] == "support"
    assert result["dataset"] == {"name": "support", "type": "driftline/labelled", "revision": "3", "split": "gate"}
    found = {metric["type"]: metric for metric in result["metrics"]}
    wanted = material.evaluation["metrics"]["candidate"]["ndcg_at_10"]
    assert found["ndcg_at_10"]["value"] == wanted["mean"]
    assert found["ndcg_at_10"]["interval"] == {name: wanted[name] for name in wanted if name != "mean"}
    assert card["compared"].keys() == card["differences"].keys() == {"base", "champion"}
    assert card["verdict"] == material.verdict
    assert card["recipe"] == material.recipe
    assert card["datasets"][0]["conflicting_texts"] == 2
    assert card["fit"]["curves"]["step"] == [0, 20, 40, 60]
    assert card["lineage"]["parent"]["number"] == 2
    assert "examples" not in card["errors"]["candidate"]


def test_groups_of_the_tenants_own_sources_are_not_named(make_material: Callable[..., Material]) -> None:
    material = make_material()
    rows = [
        {
            "name": f"customer {n}",
            "score": material.evaluation["metrics"]["base"]["ndcg_at_10"],
            "judged": True,
        }
        for n in range(3)
    ]
    material.evaluation["subgroups"]["group"] = {
        "candidate": {"groups": rows, "worst": "customer 0", "gap": None},
    }  # type: ignore[index]
    card = model_card(material)
    assert "customer" not in json.dumps(card)
    assert card["subgroups"]["group"]["candidate"]["groups"] == 3
    jsonschema.validate(card, CARD_SCHEMA)
