"""What the worker hands to the processes of a LoRA fit, and what they leave: names of files, token ids, settings.

Nothing here imports torch: the worker does without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from encoder.batch import TokenIds
from monitoring.recipe import Recipe
from training.errors import TrainingError
from training.lora_settings import LoraSettings
from training.shares import SHARES

TASK: Final = "lora_task.json"
PROBLEM: Final = "lora_problem.safetensors"
TOKENS: Final = "lora_tokens.safetensors"
PLAN: Final = "lora_plan.json"
"""How the fit is run on this machine, as measured once: written before its first step."""
REPORT: Final = "lora.json"
"""Written last by the fit."""
ADAPTER: Final = "peft"
"""Folder of the fitted adapter, as PEFT stores it."""
WITNESS: Final = "lora_witness.safetensors"
BACKBONE: Final = "backbone"
"""Folder of the backbone's files, by their digests, for the proof."""
NOTES: Final = "lora_notes.json"
DRAFT: Final = "draft.json"
"""The version's manifest without the figures of its evaluation."""


class LoraDeclined(TrainingError):
    """A LoRA fit would take longer than it may; the message has the figures. Nothing was fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraTask:
    """One LoRA fit.

    Attributes:
        source: The pretrained model as `training.sources.open_source` takes it.
        settings: How to fit, as far as it is known before the machine's speed is.
        budget_s: Longest the whole fit may take, in seconds.
        least_share: The fit is declined where the budget does not hold this share of its steps.
        head: Whether a head was fitted before it, which it is compared with.
    """

    source: str | None
    settings: LoraSettings
    budget_s: float
    least_share: float
    head: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "source": self.source,
            "settings": self.settings.to_dict(),
            "budget_s": self.budget_s,
            "least_share": self.least_share,
            "head": self.head,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LoraTask":
        """From what `to_dict` gave."""
        return cls(**{**values, "settings": LoraSettings.from_dict(values["settings"])})


def settings_of(recipe: Recipe) -> LoraSettings:
    """The settings of a recipe's LoRA fit.

    Raises:
        FitFailed: A field is out of range.
    """
    asked = {name: value for name, value in recipe.lora.items() if name != "processes"}
    shares = SHARES if recipe.alpha is None else (recipe.alpha,)
    return LoraSettings.from_dict(
        {"seed": recipe.seed, "time_budget_s": recipe.time_budget_s, **asked, "shares": list(shares)}
    )


def token_arrays(tokens: TokenIds) -> dict[str, npt.NDArray[Any]]:
    """Token ids as arrays: `ids` (all,) int32, one text after the other, and `lengths` (n,) int32."""
    ids = np.concatenate([np.asarray(row, np.int32) for row in tokens]) if tokens else np.empty(0, np.int32)
    return {"ids": ids, "lengths": np.array([len(row) for row in tokens], np.int32)}


def tokens_of(arrays: Mapping[str, npt.NDArray[Any]]) -> list[list[int]]:
    """Token ids from what `token_arrays` gave."""
    ends = np.cumsum(arrays["lengths"])
    return [part.tolist() for part in np.split(arrays["ids"], ends[:-1])] if len(ends) else []
