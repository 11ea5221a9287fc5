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
    "supcon": {"temperature": 0.1, "learning_rate": 1e-3},
    "infonce": {"temperature": 0.05, "learning_rate": 5e-4},
}
# The losses of each kind of rows; "auto" is the first of them.
_LOSSES_OF = {RowKind.LABELLED: ("supcon", "debiased", "triplet"), RowKind.PAIRS: ("infonce", "debiased")}
_LOSSES = ("auto", "supcon", "infonce", "debiased", "triplet")
_SHAPES = ("auto", "linear", "low_rank", "mlp")
_SCHEDULES = ("fixed", "linear", "cosine", "learned")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Settings of one retrain. The defaults suit a few hundred to a few hundred thousand rows.

    Attributes:
        method: "head", a residual head on base vectors.
        loss: "supcon" (labels), "infonce" (pairs), "debiased" (either; see `prior` and `hardness`), "triplet" (labels;
            batch-hard, see `margin`), or "auto": the first of these that is for the dataset's kind.
        margin: Of the loss "triplet": by how much more cosine an own text must be nearer than a foreign one.
        prior: Of the loss "debiased": how likely a negative is none after all.
        hardness: Of the loss "debiased": how much more near negatives weigh; 0 weighs them alike.
        shape: Of the residual: "linear", "low_rank", "mlp", or "auto": mlp, or linear where `hidden` is 0.
        hidden: Width of the hidden layer of an mlp.
        rank: Rank of a low-rank residual.
        dropout: Share of base vector components dropped while fitting. None: what suits kind and number of rows (0.1
            for pairs; 0.2 for labels, and 0.5 where a label has fewer than 25 rows on average).
        temperature: Temperature of the loss; smaller looks harder at near misses. None: what suits the loss.
        temperature_schedule: "fixed"; "linear" or "cosine", on the way to `temperature_end`; or "learned", from
            `temperature` on within 0.01 and 0.5.
        temperature_end: Temperature of the last step, where it is scheduled.
        hard_negatives: Mined negatives beside each anchor; 0 leaves it at those the batch holds. The nearest foreign
            texts under the head as it is, those suspiciously near left out.
        refresh: Steps between two minings.
        positive_share: A text is too near to be a negative at this share of the cosine of the anchor's positive.
        random_share: Least share of the mined negatives that is drawn at random instead.
        steps: Most optimiser steps.
        batch_size: Rows of one step; contrastive losses gain from large ones.
        learning_rate: Peak of the cosine schedule, after a short warm-up. None: what suits the loss.
        weight_decay: AdamW's decoupled decay, which pulls the head towards the base.
        identity: Weight of the penalty on leaving the base vectors.
        replay: Weight of the same penalty on texts that have nothing to do with the fit.
        spread: Weight of the penalty on foreign texts whose cosines are not those of directions at random.
        covariance: Weight of the penalty on components that vary together.
        refit: Whether the head is fitted once more, on the rows of the fit and the selection together and for as many
            steps as were best, before it is returned. The selection rows are then rows that the version has seen.
        patience: Evaluations without a better selection score or a lower selection loss before the fit ends.
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
    margin: float = 0.2
    prior: float = 0.0
    hardness: float = 1.0
    shape: str = "auto"
    hidden: int = 768
    rank: int = 32
    dropout: float | None = None
    temperature: float | None = None
    temperature_schedule: str = "fixed"
    temperature_end: float | None = None
    hard_negatives: int = 0
    refresh: int = 40
    positive_share: float = 0.95
    random_share: float = 0.25
    steps: int = 240
    batch_size: int = 1024
    learning_rate: float | None = None
    weight_decay: float = 0.01
    identity: float = 0.0
    replay: float = 0.0
    spread: float = 0.0
    covariance: float = 0.0
    refit: bool = False
    patience: int = 6
    alpha: float | None = None
    seed: int = 0
    promote: bool = True
    time_budget_s: float = 600.0
    gate: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.method == "head", "method", 'must be "head"')
        for name, known in _CHOICES.items():
            quoted = [f'"{choice}"' for choice in known]
            _require(getattr(self, name) in known, name, f"must be {', '.join(quoted[:-1])} or {quoted[-1]}")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            inside = (value is None and name in _OPEN) or low <= value <= high
            _require(inside, name, f"must lie between {low} and {high}")
        _require(self.dropout is None or 0 <= self.dropout < 1, "dropout", "must lie in [0, 1)")
        _require(0 <= self.prior < 1, "prior", "must lie in [0, 1)")
        _require(self.learning_rate is None or 0 < self.learning_rate <= 1, "learning_rate", "must lie in (0, 1]")
        _require(self.alpha is None or 0 < self.alpha <= 1, "alpha", "must lie in (0, 1], or be left out")
        _require(self.shape != "mlp" or self.hidden > 0, "hidden", 'must be above 0 for the shape "mlp"')
        scheduled = self.temperature_schedule in ("linear", "cosine")
        rule = 'goes with the schedules "linear" and "cosine", which need it'
        _require(scheduled == (self.temperature_end is not None), "temperature_end", rule)

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
        losses = _LOSSES_OF.get(kind)
        if losses is None:
            raise RecipeRefused(f"a retrain needs labelled rows or pairs, and the dataset holds {kind.value} rows")
        if self.loss != "auto" and self.loss not in losses:
            raise RecipeRefused(
                f'recipe: loss "{self.loss}" is not for {kind.value} rows; leave it out or say "{losses[0]}"'
            )
        if kind is RowKind.PAIRS and self.gate_settings().primary == "knn_accuracy":
            raise RecipeRefused("recipe: gate.primary knn_accuracy is not measured on pairs; leave it out")
        opened: dict[str, Any] = {n: value for n, value in _TUNED[losses[0]].items() if getattr(self, n) is None}
        loss = losses[0] if self.loss == "auto" else self.loss
        shape = self.shape if self.shape != "auto" else "mlp" if self.hidden else "linear"
        return dataclasses.replace(self, loss=loss, shape=shape, **opened)

    def gate_settings(self) -> GateSettings:
        """The gate's settings with this recipe's changes.

        Raises:
            RecipeRefused: A gate field is unknown, of the wrong type, or out of range; the message names it.
        """
        return gate_settings(self.gate)


_CHOICES = {"loss": _LOSSES, "shape": _SHAPES, "temperature_schedule": _SCHEDULES}
_RANGES: Mapping[str, tuple[float, float]] = {
    "margin": (0, 2),
    "hardness": (0, 20),
    "hidden": (0, 8192),
    "rank": (1, 1024),
    "temperature": (0.005, 2),
    "temperature_end": (0.005, 2),
    "hard_negatives": (0, 64),
    "refresh": (1, 100_000),
    "positive_share": (0.5, 1),
    "random_share": (0, 1),
    "steps": (1, 100_000),
    "batch_size": (8, 16_384),
    "weight_decay": (0, 10),
    "identity": (0, 100),
    "replay": (0, 100),
    "spread": (0, 100),
    "covariance": (0, 100),
    "patience": (1, 10_000),
    "seed": (0, 2_147_483_647),
    "time_budget_s": (1, 86_400),
}
_OPEN = {"dropout", "temperature", "temperature_end", "learning_rate", "alpha"}
_INTEGERS = {"hidden", "rank", "hard_negatives", "refresh", "steps", "batch_size", "patience", "seed"}
_NUMBERS = (_RANGES.keys() | {"dropout", "prior", "learning_rate", "alpha"}) - _INTEGERS


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
    elif name in ("promote", "refit"):
        _require(isinstance(value, bool), name, "must be true or false")
    elif name == "gate":
        _require(isinstance(value, Mapping), name, "must be a table of gate settings")
    else:
        _require(isinstance(value, str), name, "must be a string")
    return value


def _require(right: bool, name: str, rule: str) -> None:
    if not right:
        raise RecipeRefused(f"recipe: {name} {rule}")
