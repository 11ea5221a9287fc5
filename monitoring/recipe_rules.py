"""What each field of a recipe may hold: one rule a field, and errors that name the field.

A new field of `Recipe` needs a line in its docstring, a default, and a rule in `RULES`; what holds between two fields
belongs into `Recipe.__post_init__`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from monitoring.errors import RecipeRefused, RulesRefused
from monitoring.limits import shown
from monitoring.rollout_rules import Rules
from registry.errors import InvalidName
from registry.names import parse_model, valid_name


class Rule(Protocol):
    """What one field may hold."""

    def check(self, name: str, value: object) -> Any:
        """The value as the field's type. Raises RecipeRefused, which names the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number between two bounds, both allowed; a bool is none, and NaN and infinities are none either.

    Attributes:
        low, high: The bounds.
        above, below: Whether the bound itself is left out.
        whole: Whether it has to be a whole number.
        open: Whether None is allowed: "what suits".
    """

    low: float
    high: float
    above: bool = False
    below: bool = False
    whole: bool = False
    open: bool = False

    def check(self, name: str, value: object) -> float | None:
        """See `Rule`."""
        if value is None and self.open:
            return None
        if not isinstance(value, int if self.whole else int | float) or isinstance(value, bool):
            raise refused(name, f"must be a {'whole' if self.whole else 'finite'} number")
        if not math.isfinite(value):
            raise refused(name, "must be a finite number")
        inside = (self.low < value or (self.low == value and not self.above)) and (
            value < self.high or (value == self.high and not self.below)
        )
        if not inside:
            raise refused(name, f"must lie {self._bounds()}{', or be left out' if self.open else ''}")
        return value if self.whole else float(value)

    def _bounds(self) -> str:
        low, high = (f"{bound:.10g}" for bound in (self.low, self.high))
        if self.above or self.below:
            return f"in {'(' if self.above else '['}{low}, {high}{')' if self.below else ']'}"
        return f"between {low} and {high}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words."""

    known: tuple[str, ...]

    def check(self, name: str, value: object) -> str:
        """See `Rule`."""
        if not isinstance(value, str):
            raise refused(name, "must be a string")
        if value not in self.known:
            quoted = [f'"{word}"' for word in self.known]
            raise refused(name, f"must be {', '.join(quoted[:-1])} or {quoted[-1]}")
        return value


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false; None where it is `open`."""

    open: bool = False

    def check(self, name: str, value: object) -> bool | None:
        """See `Rule`."""
        if value is None and self.open:
            return None
        if not isinstance(value, bool):
            raise refused(name, "must be true or false")
        return value


@dataclass(frozen=True, slots=True)
class Names:
    """A list of plain names, or None."""

    most: int

    def check(self, name: str, value: object) -> list[str] | None:
        """See `Rule`."""
        if value is None:
            return None
        plain = isinstance(value, list | tuple) and all(isinstance(word, str) and _plain(word) for word in value)
        if not (plain and isinstance(value, list | tuple) and 0 < len(value) <= self.most):
            raise refused(name, f"must be a list of 1 to {self.most} names, or be left out")
        return list(value)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of settings; its own fields are checked by whoever reads it."""

    of: str

    def check(self, name: str, value: object) -> Mapping[str, Any]:
        """See `Rule`."""
        if not isinstance(value, Mapping):
            raise refused(name, f"must be a table of {self.of} settings")
        return value


@dataclass(frozen=True, slots=True)
class DatasetName:
    """A dataset's name, perhaps with a revision ("name@3"), or None."""

    def check(self, name: str, value: object) -> str | None:
        """See `Rule`."""
        if value is None:
            return None
        try:
            valid_name(parse_model(value if isinstance(value, str) else "")[0])
        except InvalidName as error:
            raise refused(name, 'must name a dataset, as "name" or "name@revision", or be left out') from error
        return str(value)


@dataclass(frozen=True, slots=True)
class RolloutTable:
    """Rules of a rollout, or None."""

    def check(self, name: str, value: object) -> Mapping[str, Any] | None:
        """See `Rule`."""
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise refused(name, "must be a table of rollout rules, or be left out")
        try:
            Rules.from_mapping(value)
        except RulesRefused as error:
            raise RecipeRefused(f"recipe: {error}") from error
        return value


RULES: Final[Mapping[str, Rule]] = {
    "method": Choice(("auto", "head", "lora")),
    "loss": Choice(("auto", "supcon", "infonce", "debiased", "triplet")),
    "margin": Number(low=0, high=2),
    "prior": Number(low=0, high=1, below=True),
    "hardness": Number(low=0, high=20),
    "shape": Choice(("auto", "linear", "low_rank", "mlp")),
    "hidden": Number(low=0, high=8192, whole=True),
    "rank": Number(low=1, high=1024, whole=True),
    "dropout": Number(low=0, high=1, below=True, open=True),
    "temperature": Number(low=0.005, high=2, open=True),
    "temperature_schedule": Choice(("fixed", "linear", "cosine", "learned")),
    "temperature_end": Number(low=0.005, high=2, open=True),
    "hard_negatives": Number(low=0, high=64, whole=True),
    "refresh": Number(low=1, high=100_000, whole=True),
    "positive_share": Number(low=0.5, high=1),
    "random_share": Number(low=0, high=1),
    "steps": Number(low=1, high=100_000, whole=True),
    "batch_size": Number(low=8, high=16_384, whole=True),
    "learning_rate": Number(low=0, high=1, above=True, open=True),
    "weight_decay": Number(low=0, high=10),
    "identity": Number(low=0, high=100),
    "replay": Number(low=0, high=100),
    "spread": Number(low=0, high=100),
    "covariance": Number(low=0, high=100),
    "augment": Number(low=0, high=5),
    "feature_dropout": Number(low=0, high=0.9),
    "unlabelled": DatasetName(),
    "pseudo_confidence": Number(low=0, high=1, above=True),
    "pseudo_cap": Number(low=0, high=100, above=True),
    "refit": Flag(open=True),
    "patience": Number(low=1, high=10_000, whole=True),
    "alpha": Number(low=0, high=1, above=True, open=True),
    "seed": Number(low=0, high=2_147_483_647, whole=True),
    "promote": Flag(),
    "rollout": RolloutTable(),
    "time_budget_s": Number(low=1, high=86_400),
    "lora_budget_s": Number(low=0, high=86_400, open=True),
    "lora": Table("LoRA"),
    "gate": Table("gate"),
}
"""Field of a recipe -> what it may hold; the ranges keep a request from costing more than its time budget."""

LORA: Final[Mapping[str, Rule]] = {
    "rank": Number(low=1, high=64, whole=True),
    "alpha": Number(low=1, high=1024, whole=True),
    "rslora": Flag(),
    "targets": Names(32),
    "dropout": Number(low=0, high=0.9),
    "temperature": Number(low=0.005, high=2, open=True),
    "identity": Number(low=0, high=100),
    "replay": Number(low=0, high=100),
    "masked": Number(low=0, high=100),
    "steps": Number(low=1, high=100_000, whole=True, open=True),
    "batch_size": Number(low=8, high=16_384, whole=True),
    "learning_rate": Number(low=0, high=1, above=True),
    "warm_up": Number(low=0, high=1),
    "weight_decay": Number(low=0, high=10),
    "averaging": Number(low=0, high=0.9999),
    "max_tokens": Number(low=8, high=8192, whole=True),
    "precision": Choice(("auto", "fp32", "bf16")),
    "evaluations": Number(low=1, high=1000, whole=True),
    "patience": Number(low=1, high=1000, whole=True),
    "processes": Number(low=1, high=16, whole=True),
}
"""Field of a recipe's table `lora` -> what it may hold; the defaults are those of training/lora_settings.py."""


def check_lora(asked: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's LoRA settings, each as its field's type.

    Raises:
        RecipeRefused: A field is unknown, of the wrong type, or out of range; the message names it.
    """
    if unknown := shown([name for name in asked if name not in LORA]):
        raise RecipeRefused(f"recipe: unknown lora field {unknown}; known are {', '.join(sorted(LORA))}")
    return {name: LORA[name].check(f"lora.{name}", value) for name, value in asked.items()}


def refused(name: str, rule: str) -> RecipeRefused:
    """The error for a field that breaks a rule."""
    return RecipeRefused(f"recipe: {name} {rule}")


def require(right: bool, name: str, rule: str) -> None:
    """Raise RecipeRefused with the field's name where a rule does not hold."""
    if not right:
        raise refused(name, rule)


def _plain(word: str) -> bool:
    return 0 < len(word) <= 100 and word.isascii() and word.replace(".", "").replace("_", "").isalnum()
