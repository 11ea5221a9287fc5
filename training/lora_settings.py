"""How a LoRA adapter is fitted: one frozen object whose every field is checked when it is made."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from encoder.lora_manifest import MAX_RANK
from training.errors import FitFailed

_FEWEST_STEPS, _MOST_STEPS = 40, 400
_EPOCHS = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """Settings of one LoRA fit. The defaults suit short texts, from ten rows a label to some ten thousand rows.

    Attributes:
        rank: Width of the branches (Hu et al. 2021, arXiv 2106.09685).
        alpha: Scale of the branches: alpha / rank, or alpha / sqrt(rank) with `rslora`.
        rslora: Rank-stabilised scale (Kalajdzievski 2023, arXiv 2312.03732).
        targets: Last parts of the names of the Linear modules that get a branch; None takes all that sentence vectors
            depend on (in BERT: query, key, value, and the dense layers after attention and around the activation).
        dropout: Share of what a branch reads that is dropped while fitting.
        temperature: Of the loss; None: 0.1 for labels, 0.05 for pairs.
        identity: Weight of the penalty on leaving the base vectors.
        replay: Weight of staying the backbone on texts of random tokens (training/lora_replay.py).
        masked: Weight of masked-token prediction on the step's texts (training/lora_masked.py); needs a mask token.
        steps: Optimiser steps; None: a pass and a quarter over the rows, at least 40 and at most 400 steps.
        batch_size: Rows of a step, over all processes. Memory does not grow with it.
        learning_rate: Peak, after a linear warm-up; then half a cosine to 0.
        warm_up: Share of the steps that the warm-up takes.
        weight_decay: AdamW's decoupled decay.
        averaging: Share of the moving average of the weights that a step keeps; 0 keeps the last step's weights.
        max_tokens: Tokens of a text that are read, special ones included.
        chunk_tokens: Tokens, padding included, of one run of the model.
        held_tokens: Tokens whose activations may be held at once. A batch with more is run twice: gradient caching.
        precision: "fp32", "bf16" (autocast), or "auto": the faster one, measured at the start.
        evaluations: Times that the selection score is measured.
        scored_rows: Most rows of the selection split, and of the index it is searched in, that a score rests on.
        patience: Scores in a row without a better one before the fit ends.
        shares: Parts of the adapter's change of which the fit keeps one (see `training.shares`), each in (0, 1].
        time_budget_s: Longest the fit may take; then the best weights so far are kept.
        checkpoint_every: Steps between checkpoints.
        seed: Of the initial weights, the batches and the dropout.
    """

    rank: int = 16
    alpha: int = 32
    rslora: bool = False
    targets: tuple[str, ...] | None = None
    dropout: float = 0.0
    temperature: float | None = None
    identity: float = 0.0
    replay: float = 5.0
    masked: float = 0.0
    steps: int | None = None
    batch_size: int = 256
    learning_rate: float = 1e-3
    warm_up: float = 0.1
    weight_decay: float = 0.01
    averaging: float = 0.95
    max_tokens: int = 64
    chunk_tokens: int = 1024
    held_tokens: int = 16_384
    precision: str = "auto"
    evaluations: int = 5
    scored_rows: int = 1500
    patience: int = 4
    shares: tuple[float, ...] = (1.0,)
    time_budget_s: float = 700.0
    checkpoint_every: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            FitFailed: A field is out of range; names it.
        """
        _within("rank", self.rank, 1, MAX_RANK)
        _within("alpha", self.alpha, 1, 4096)
        _within("dropout", self.dropout, 0, 0.9)
        _within("temperature", 0.1 if self.temperature is None else self.temperature, 0.005, 2)
        _within("identity", self.identity, 0, 100)
        _within("replay", self.replay, 0, 100)
        _within("masked", self.masked, 0, 100)
        _within("steps", 1 if self.steps is None else self.steps, 1, 1_000_000)
        _within("batch_size", self.batch_size, 2, 65_536)
        _within("learning_rate", self.learning_rate, 1e-8, 1)
        _within("warm_up", self.warm_up, 0, 1)
        _within("weight_decay", self.weight_decay, 0, 10)
        _within("averaging", self.averaging, 0, 0.9999)
        _within("max_tokens", self.max_tokens, 8, 8192)
        _within("chunk_tokens", self.chunk_tokens, 1, 1 << 20)
        _within("held_tokens", self.held_tokens, 0, 1 << 24)
        _within("evaluations", self.evaluations, 1, 1000)
        _within("scored_rows", self.scored_rows, 10, 1_000_000)
        _within("patience", self.patience, 1, 1000)
        _within("time_budget_s", self.time_budget_s, 1, 86_400)
        _within("checkpoint_every", self.checkpoint_every, 1, 1_000_000)
        _within("seed", self.seed, 0, 2**31 - 1)
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise FitFailed("LoRA settings: shares must lie in (0, 1], one at least")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise FitFailed('LoRA settings: precision must be "auto", "fp32" or "bf16"')
        if self.targets is not None and not (self.targets and all(self.targets)):
            raise FitFailed("LoRA settings: targets must name at least one module, or be left out")

    def steps_for(self, rows: int) -> int:
        """Optimiser steps of a fit on so many rows."""
        if self.steps is not None:
            return self.steps
        return min(_MOST_STEPS, max(_FEWEST_STEPS, math.ceil(rows * _EPOCHS / self.batch_size)))

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain JSON values."""
        values = dataclasses.asdict(self)
        return values | {"targets": None if self.targets is None else list(self.targets), "shares": list(self.shares)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LoraSettings":
        """Settings from what `to_dict` gave, or from a part of it.

        Raises:
            FitFailed: A field is out of range.
        """
        targets, shares = values.get("targets"), values.get("shares", cls().shares)
        return cls(**{**values, "targets": None if targets is None else tuple(targets), "shares": tuple(shares)})


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # written so that a NaN fails
        raise FitFailed(f"LoRA settings: {name} must lie between {least:g} and {most:g}")
