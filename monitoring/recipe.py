"""How an adapter is fitted and judged: a recipe read from TOML or JSON, with every mistake named."""

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monitoring.errors import RecipeRefused
from monitoring.gate import GateSettings
from monitoring.limits import gate_settings, shown
from registry.row import RowKind

MAX_BYTES = 100_000
# What a loss is fitted with where the recipe leaves it open. Pairs overfit sooner and need a sharper temperature.
_TUNED = {
    "supcon": {"temperature": 0.1, "learning_rate": 1e-3, "dropout": 0.2},
    "infonce": {"temperature": 0.05, "learning_rate": 5e-4, "dropout": 0.1},
}
_LOSS_OF = {RowKind.LABELLED: "supcon", RowKind.PAIRS: "infonce"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Settings of one retrain. The defaults suit a few hundred to a few hundred thousand rows.

    Attributes:
        method: "head", a residual head on base vectors.
        loss: "supcon" (labels), "infonce" (pairs), or "auto": what the dataset's kind asks for.
        hidden: Width of the head's hidden layer; 0 gives a linear residual.
        dropout: Share of base vector components dropped while fitting. None: what suits the loss.
        temperature: Temperature of the loss; smaller looks harder at near misses. None: what suits the loss.
        steps: Most optimiser steps.
        batch_size: Rows of one step; contrastive losses gain from large ones.
        learning_rate: Peak of the cosine schedule, after a short warm-up. None: what suits the loss.
        weight_decay: AdamW's decoupled decay, which pulls the head towards the base.
        identity: Weight of the penalty on leaving the base vectors.
        patience: Evaluations without a better selection score before the fit ends.
        alpha: Share of the residual that is kept, in (0, 1]; None chooses it on the selection split.
        seed: Seed of the split, the initial weights and the batches. Under another seed than the live version's, most
            rows held out were fitted by that version and are not judged on.
        promote: Whether a version whose verdict is `pass` goes live at once. With a gate that is laxer than the
            defaults in any field it never does: it stays a candidate, and the job says why.
        time_budget_s: Longest the fit may take, in seconds.
        gate: Settings of the gate that differ from its defaults; monitoring/limits.py has their ranges.
    """

    method: str = "head"
    loss: str = "auto"
    hidden: int = 768
    dropout: float | None = None
    temperature: float | None = None
    steps: int = 240
    batch_size: int = 1024
    learning_rate: float | None = None
    weight_decay: float = 0.01
    identity: float = 0.0
    patience: int = 6
    alpha: float | None = None
    seed: int = 0
    promote: bool = True
    time_budget_s: float = 600.0
    gate: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.method == "head", "method", 'must be "head"')
        _require(self.loss in ("auto", "supcon", "infonce"), "loss", 'must be "auto", "supcon" or "infonce"')
        _require(0 <= self.hidden <= 8192, "hidden", "must lie between 0 and 8192")
        _require(self.dropout is None or 0 <= self.dropout < 1, "dropout", "must lie in [0, 1)")
        inside = self.temperature is None or 0.005 <= self.temperature <= 2
        _require(inside, "temperature", "must lie between 0.005 and 2")
        _require(1 <= self.steps <= 100_000, "steps", "must lie between 1 and 100000")
        _require(8 <= self.batch_size <= 16_384, "batch_size", "must lie between 8 and 16384")
        _require(self.learning_rate is None or 0 < self.learning_rate <= 1, "learning_rate", "must lie in (0, 1]")
        _require(0 <= self.weight_decay <= 10, "weight_decay", "must lie between 0 and 10")
        _require(0 <= self.identity <= 100, "identity", "must lie between 0 and 100")
        _require(1 <= self.patience <= 10_000, "patience", "must lie between 1 and 10000")
        _require(self.alpha is None or 0 < self.alpha <= 1, "alpha", "must lie in (0, 1], or be left out")
        _require(0 <= self.seed < 2**31, "seed", "must lie between 0 and 2147483647")
        _require(1 <= self.time_budget_s <= 86_400, "time_budget_s", "must lie between 1 and 86400 seconds")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "Recipe":
        """A recipe from plain values; fields left out keep their defaults.

        Raises:
            RecipeRefused: A field is unknown, of the wrong type, or out of range; the message names it.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = shown([name for name in mapping if name not in fields])
        if unknown:
            raise RecipeRefused(f"recipe: unknown field {unknown}; known are {', '.join(fields)}")
        values: dict[str, Any] = {name: _typed(name, value) for name, value in mapping.items()}
        recipe = cls(**values)
        recipe.gate_settings()
        return recipe

    @classmethod
    def from_file(cls, path: Path) -> "Recipe":
        """A recipe from a `.toml` or `.json` file.

        Raises:
            RecipeRefused: The file cannot be read or parsed, or its fields are wrong.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RecipeRefused(f"recipe file cannot be read: {error.strerror}") from error
        if len(data) > MAX_BYTES:
            raise RecipeRefused(f"recipe file has {len(data)} bytes, at most {MAX_BYTES} are read")
        try:
            text = data.decode("utf-8")
            mapping = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # both decoders and UnicodeDecodeError are ValueErrors
            kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
            raise RecipeRefused(f"recipe file is not valid {kind} in UTF-8") from error
        if not isinstance(mapping, dict):
            raise RecipeRefused("recipe file must hold an object of fields")
        return cls.from_mapping(mapping)

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain JSON values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)} | {"gate": dict(self.gate)}

    def resolved(self, kind: RowKind) -> "Recipe":
        """This recipe with everything it leaves open filled in for rows of a kind.

        Raises:
            RecipeRefused: The kind cannot be trained on, or the loss asked for is not for it.
        """
        wanted = _LOSS_OF.get(kind)
        if wanted is None:
            raise RecipeRefused(f"a retrain needs labelled rows or pairs, and the dataset holds {kind.value} rows")
        if self.loss not in ("auto", wanted):
            raise RecipeRefused(
                f'recipe: loss "{self.loss}" is not for {kind.value} rows; leave it out or say "{wanted}"'
            )
        if kind is RowKind.PAIRS and self.gate_settings().primary == "knn_accuracy":
            raise RecipeRefused("recipe: gate.primary knn_accuracy is not measured on pairs; leave it out")
        opened: dict[str, Any] = {name: value for name, value in _TUNED[wanted].items() if getattr(self, name) is None}
        return dataclasses.replace(self, loss=wanted, **opened)

    def gate_settings(self) -> GateSettings:
        """The gate's settings with this recipe's changes.

        Raises:
            RecipeRefused: A gate field is unknown, of the wrong type, or out of range; the message names it.
        """
        return gate_settings(self.gate)


_INTEGERS = {"hidden", "steps", "batch_size", "patience", "seed"}
_OPEN = {"dropout", "temperature", "learning_rate", "alpha"}
_NUMBERS = {"dropout", "temperature", "learning_rate", "weight_decay", "identity", "alpha", "time_budget_s"}


def _typed(name: str, value: object) -> object:
    """The value, if it has the field's type: bool is no number here, and NaN and infinities are none either."""
    if name in _OPEN and value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _INTEGERS:
        _require(number and isinstance(value, int), name, "must be a whole number")
    elif name in _NUMBERS:
        _require(number and math.isfinite(value), name, "must be a finite number")  # type: ignore[arg-type]
        return float(value)  # type: ignore[arg-type]
    elif name == "promote":
        _require(isinstance(value, bool), name, "must be true or false")
    elif name == "gate":
        _require(isinstance(value, Mapping), name, "must be a table of gate settings")
    else:
        _require(isinstance(value, str), name, "must be a string")
    return value


def _require(right: bool, name: str, rule: str) -> None:
    if not right:
        raise RecipeRefused(f"recipe: {name} {rule}")
