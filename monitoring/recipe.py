"""How an adapter is fitted and judged: a recipe read from TOML or JSON, with every mistake named."""

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monitoring.errors import RecipeRefused
from monitoring.gate import GateSettings
from monitoring.limits import gate_settings, shown
from monitoring.recipe_rules import RULES, check_lora, require
from registry.row import RowKind

MAX_BYTES = 100_000
LORA_BUDGET_S = 540.0
# What a loss is fitted with where the recipe leaves it open. Pairs overfit sooner and need a sharper temperature.
_TUNED = {
    "supcon": {"temperature": 0.1, "learning_rate": 2e-3},
    "infonce": {"temperature": 0.05, "learning_rate": 2e-3},
}
# The losses of each kind of rows; "auto" is the first of them.
_LOSSES_OF = {
    RowKind.LABELLED: ("supcon", "debiased", "triplet"),
    RowKind.PAIRS: ("infonce", "debiased"),
    # Two views of a text make a pair.
    RowKind.UNLABELLED: ("infonce", "debiased"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Settings of one retrain. The defaults suit a few hundred to a few hundred thousand rows.

    Attributes:
        method: "head", a residual head on base vectors; "lora", branches inside the backbone; or "auto": a head, and
            then a LoRA where that is likely to pay within `lora_budget_s`, kept where it is clearly better.
        loss: Of a head: "supcon" (labels), "infonce" (pairs), "debiased" (either; see `prior` and `hardness`),
            "triplet" (labels; batch-hard, see `margin`), or "auto": the first of these that is for the dataset's kind.
        margin: Of the loss "triplet": by how much more cosine an own text must be nearer than a foreign one.
        prior: Of the loss "debiased": how likely a negative is none after all.
        hardness: Of the loss "debiased": how much more near negatives weigh; 0 weighs them alike.
        shape: Of the residual: "linear", "low_rank", "mlp", or "auto": mlp, or linear where `hidden` is 0.
        hidden: Width of the hidden layer of an mlp.
        rank: Rank of a low-rank residual.
        dropout: Share of base vector components dropped while fitting. None: 0.4, and 0.5 where a label has fewer than
            25 rows on average.
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
        replay: Weight of staying the base on directions drawn at random, which keeps what is learnt to its domain
            (docs/decisions/0012).
        spread: Weight of the penalty on foreign texts whose cosines are not those of directions at random.
        covariance: Weight of the penalty on components that vary together.
        augment: Of a head: other wordings of the fitted texts, as a share of the rows to fit; each costs an encoding.
        feature_dropout: Of a head: share of base vector components dropped from every view of a text while fitting
            (SimCSE's noise, on features). It makes rows without labels differ from themselves.
        unlabelled: Beside labelled rows: a dataset of texts alone, as "name" or "name@revision", whose surest
            pseudo-labels join a head's fit where the selection score is not worse for it; None for none. With `replay`
            those not taken are replayed.
        pseudo_confidence: Least calibrated confidence of a pseudo-label.
        pseudo_cap: Most pseudo-labels of a label, in fitted rows that a label has on average.
        refit: Whether the head is fitted once more, on the rows of the fit and the selection together and for as many
            steps as were best, before it is returned. The selection rows are then rows that the version has seen. None:
            where the gate has 100 rows, so that enough are left to calibrate the drift monitor on.
        patience: Evaluations without a better selection score or a lower selection loss before the fit ends.
        alpha: Share of the residual, or of a LoRA's branches, that is kept, in (0, 1]; None chooses it on the
            selection split.
        seed: Seed of the split, the initial weights and the batches. Under another seed than the live version's, most
            rows held out were fitted by that version and are not judged on.
        promote: Whether a version whose verdict is `pass` goes live at once. With a gate that is laxer than the
            defaults in any field it never does: it stays a candidate, and the job says why.
        rollout: Rules of a rollout (monitoring/rollout_rules.py) that a version which would go live at once is served
            under first, in shadow or to a share of the callers; an empty table takes all defaults. None: no rollout.
        time_budget_s: Longest the fit may take, in seconds, whatever the method.
        lora_budget_s: Longest that the method "auto" may expect a LoRA fit to take, in seconds; 0 never tries one.
            None: 540 for pairs, 0 for labels, on which a head did at least as well wherever it was measured.
        lora: Settings of the LoRA fit that differ from its defaults: rank, alpha (PEFT's lora_alpha), rslora, targets,
            dropout, temperature, identity, replay, masked, steps, batch_size, learning_rate, warm_up, weight_decay,
            averaging, max_tokens, precision, evaluations, patience, as training/lora_settings.py describes them, and
            processes, how many of them share the work (1).
        gate: Settings of the gate that differ from its defaults; monitoring/limits.py has their ranges.
    """

    method: str = "auto"
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
    steps: int = 400
    batch_size: int = 512
    learning_rate: float | None = None
    weight_decay: float = 0.01
    identity: float = 0.0
    replay: float = 20.0
    spread: float = 0.0
    covariance: float = 0.0
    augment: float = 0.0
    feature_dropout: float = 0.0
    unlabelled: str | None = None
    pseudo_confidence: float = 0.5
    pseudo_cap: float = 10.0
    refit: bool | None = None
    patience: int = 8
    alpha: float | None = None
    seed: int = 0
    promote: bool = True
    rollout: Mapping[str, Any] | None = None
    time_budget_s: float = 600.0
    lora_budget_s: float | None = None
    lora: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            rule.check(name, getattr(self, name))
        require(self.shape != "mlp" or self.hidden > 0, "hidden", 'must be above 0 for the shape "mlp"')
        scheduled = self.temperature_schedule in ("linear", "cosine")
        rule_of_end = 'goes with the schedules "linear" and "cosine", which need it'
        require(scheduled == (self.temperature_end is not None), "temperature_end", rule_of_end)
        require(self.method != "head" or not self.lora, "lora", 'goes with the methods "lora" and "auto"')

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
        values: dict[str, Any] = {name: RULES[name].check(name, value) for name, value in mapping.items()}
        if "lora" in values:
            values["lora"] = check_lora(values["lora"])
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
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        rollout = None if self.rollout is None else dict(self.rollout)
        return values | {"gate": dict(self.gate), "lora": dict(self.lora), "rollout": rollout}

    def resolved(self, kind: RowKind) -> "Recipe":
        """This recipe with everything it leaves open filled in for rows of a kind.

        Raises:
            RecipeRefused: The loss asked for, or another field, is not for rows of this kind.
        """
        losses = _LOSSES_OF[kind]
        if self.loss != "auto" and self.loss not in losses:
            raise RecipeRefused(
                f'recipe: loss "{self.loss}" is not for {kind.value} rows; leave it out or say "{losses[0]}"'
            )
        if kind is not RowKind.LABELLED and self.gate_settings().primary == "knn_accuracy":
            raise RecipeRefused(f"recipe: gate.primary knn_accuracy is not measured on {kind.value}; leave it out")
        if kind is not RowKind.LABELLED and self.unlabelled is not None:
            raise RecipeRefused("recipe: unlabelled goes with labelled rows; leave it out")
        opened: dict[str, Any] = {n: value for n, value in _TUNED[losses[0]].items() if getattr(self, n) is None}
        if self.lora_budget_s is None:
            opened["lora_budget_s"] = LORA_BUDGET_S if kind is RowKind.PAIRS else 0.0
        loss = losses[0] if self.loss == "auto" else self.loss
        shape = self.shape if self.shape != "auto" else "mlp" if self.hidden else "linear"
        return dataclasses.replace(self, loss=loss, shape=shape, **opened)

    def gate_settings(self) -> GateSettings:
        """The gate's settings with this recipe's changes.

        Raises:
            RecipeRefused: A gate field is unknown, of the wrong type, or out of range; the message names it.
        """
        return gate_settings(self.gate)
