"""Which recipe variants an ablation compares: given in words or in a file, or the default set for a recipe."""

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from monitoring.errors import RecipeRefused
from monitoring.recipe import MAX_BYTES, Recipe
from registry.row import RowKind

BASE: Final = "recipe"
"""Name of the recipe that the variants change."""
_MAX_NAME = 64
_TABLES = ("gate", "lora")
_ADDED = ("augment", "unlabelled")
# Each ingredient, and how a recipe without it says so.
_WITHOUT: Final[Mapping[str, Mapping[str, Any]]] = {
    "no dropout": {"dropout": 0.0},
    "no weight decay": {"weight_decay": 0.0},
    "no identity": {"identity": 0.0},
    "no replay": {"replay": 0.0},
    "no spread": {"spread": 0.0},
    "no covariance": {"covariance": 0.0},
    "no hard negatives": {"hard_negatives": 0},
    "no refit": {"refit": False},
    "fixed temperature": {"temperature_schedule": "fixed", "temperature_end": None},
    "whole residual": {"alpha": 1.0},
}
# What could be taken instead.
_OTHERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "loss debiased": {"loss": "debiased"},
    "loss triplet": {"loss": "triplet"},
    "shape linear": {"shape": "linear"},
    "shape low_rank": {"shape": "low_rank"},
    "shape mlp": {"shape": "mlp"},
    "learned temperature": {"temperature_schedule": "learned", "temperature_end": None},
    "4 hard negatives": {"hard_negatives": 4},
    "replay 1": {"replay": 1.0},
    "identity 1": {"identity": 1.0},
    "spread 1": {"spread": 1.0},
    "refit": {"refit": True},
}
# Fields that are tried at half and at twice what the recipe has.
_SCALED = ("temperature", "learning_rate")


@dataclass(frozen=True, slots=True)
class Variant:
    """A recipe under a name.

    Attributes:
        name: As the table shows it.
        changes: Fields in which it differs from the recipe it was made from, as they were given.
        recipe: Resolved for the kind of rows.
    """

    name: str
    changes: Mapping[str, Any]
    recipe: Recipe

    @classmethod
    def of(cls, name: str, base: Recipe, changes: Mapping[str, Any], kind: RowKind) -> "Variant":
        """A recipe with some fields changed; of the tables `gate` and `lora`, only what is named changes.

        The method "auto" stands for its first part, the head, and an open `refit` for none.

        Raises:
            RecipeRefused: A field is unknown, of the wrong type or out of range, or not for the kind; names the
                variant.
        """
        fields = base.to_dict()
        for field, value in changes.items():
            inner = field in _TABLES and isinstance(value, Mapping)
            fields[field] = {**fields.get(field, {}), **value} if inner else value
        try:
            recipe = Recipe.from_mapping(fields).resolved(kind)
        except RecipeRefused as error:
            raise RecipeRefused(f"variant {name}: {error}") from error
        added = [field for field in _ADDED if getattr(recipe, field)]
        if added:
            raise RecipeRefused(f"variant {name}: {added[0]} adds texts, which an ablation does not; leave it out")
        # What a job decides by the rows it has, an ablation leaves at the plain case.
        method = "head" if recipe.method == "auto" else recipe.method
        lora = {} if method == "head" else recipe.lora
        return cls(name, dict(changes), dataclasses.replace(recipe, method=method, lora=lora, refit=bool(recipe.refit)))


def variants_of(base: Recipe, named: Iterable[tuple[str, Mapping[str, Any]]], kind: RowKind) -> list[Variant]:
    """The recipe itself, called `recipe`, and the variants by their names.

    Raises:
        RecipeRefused: A recipe is refused, or a name is used twice.
    """
    found = [Variant.of(BASE, base, {}, kind)]
    for name, changes in named:
        if any(name == other.name for other in found):
            raise RecipeRefused(f"variant {name}: the name is used twice; {BASE} is what the others are compared with")
        found.append(Variant.of(name, base, changes, kind))
    return found


def default_variants(base: Recipe, kind: RowKind) -> list[tuple[str, Mapping[str, Any]]]:
    """Each ingredient of a recipe switched off by itself, and the main alternatives one by one.

    What changes nothing, because the recipe has it already, or is not for the kind of rows, is left out. A LoRA is
    not among them: it takes minutes where these take seconds.
    """
    whole = Variant.of(BASE, base, {}, kind).recipe
    scaled: dict[str, Mapping[str, Any]] = {}
    for field in _SCALED:
        value = getattr(whole, field)
        scaled |= {f"{field} × {factor:g}": {field: type(value)(value * factor)} for factor in (0.5, 2.0)}
    found = []
    for name, changes in {**_WITHOUT, **_OTHERS, **scaled}.items():
        try:
            variant = Variant.of(name, base, changes, kind)
        except RecipeRefused:  # not for this kind of rows, or out of range at twice the value
            continue
        if variant.recipe != whole:
            found.append((name, changes))
    return found


def parse_variant(text: str) -> tuple[str, dict[str, Any]]:
    """Name and changes of `name: field=value, field=value`.

    A value is written as in TOML, a word without its quotation marks if you like; `none` leaves a field open. A field
    of a table is written with a dot, such as `lora.rank=8`.

    Raises:
        RecipeRefused: It has another form.
    """
    name, colon, rest = text.partition(":")
    name = _named(name)
    changes: dict[str, Any] = {}
    for piece in rest.split(","):
        field, equals, value = (part.strip() for part in piece.partition("="))
        if not (colon and field and equals and value):
            raise RecipeRefused(f"variant {name}: write it as 'name: field=value, field=value'")
        table, dot, inner = field.partition(".")
        if dot and isinstance(changes.setdefault(table, {}), dict):
            changes[table][inner] = _value(value)
        else:
            changes[field] = _value(value)
    return name, changes


def read_variants(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Names and changes from a TOML file: every table is a variant, its fields are those of a recipe.

    Raises:
        RecipeRefused: The file cannot be read or parsed, or it holds something beside tables, or nothing.
    """
    try:
        data = path.read_bytes()
        if len(data) > MAX_BYTES:
            raise RecipeRefused(f"the file of variants has {len(data)} bytes, at most {MAX_BYTES} are read")
        tables = tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise RecipeRefused(f"the file of variants cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise RecipeRefused("the file of variants is not valid TOML in UTF-8") from error
    if not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise RecipeRefused("the file of variants must hold tables, each a variant with the fields it changes")
    return [(_named(name), table) for name, table in tables.items()]


def _named(name: str) -> str:
    name = name.strip()
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise RecipeRefused(f"a variant needs a name of 1 to {_MAX_NAME} printable characters")
    return name


def _value(text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
