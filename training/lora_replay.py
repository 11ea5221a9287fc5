"""What a LoRA fit replays: texts of random tokens, whose vectors are to stay those of the backbone.

They are to a LoRA what random directions are to a head (training/replay.py): text of no domain, which costs nothing to
find. They have the lengths of the fitted texts, since the backbone's vectors depend on those.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor

from encoder.batch import TokenIds
from training.lora_batches import Step
from training.lora_model import LoraModel
from training.regularisers import distillation
from training.team import Team

TEXTS: Final = 512
DRAWN: Final = 64
"""Replayed texts of a step."""


def random_texts(tokens: TokenIds, vocabulary: int, seed: int) -> list[list[int]]:
    """Token ids of texts drawn evenly from a vocabulary: as long as the given ones, begun and ended like them."""
    rng = np.random.default_rng([seed, 3])
    first, last = tokens[0][0], tokens[0][-1]
    lengths = rng.choice([max(3, len(row)) for row in tokens], TEXTS)
    return [[first, *rng.integers(0, vocabulary, length - 2).tolist(), last] for length in lengths]


class Replay:
    """Adds replayed texts to a step.

    Args:
        model: With an adapter that changes nothing yet: its vectors are the backbone's.
        tokens: Of the fitted texts.
        weight: Of the penalty.
        seed: Of the texts and the draws. The same step draws the same texts, in a fit that goes on as well.
        team: The processes that share the work.
    """

    def __init__(self, model: LoraModel, tokens: TokenIds, *, weight: float, seed: int, team: Team) -> None:
        self._texts = random_texts(tokens, model.vocabulary, seed)
        self._base = torch.from_numpy(model.vectors(self._texts, team)).to(team.device)
        self._weight, self._seed = weight, seed

    def join(self, step: Step, tokens: TokenIds, number: int) -> tuple[TokenIds, Callable[[Tensor], Tensor]]:
        """The token ids of a step with replayed texts after them, and its loss with the penalty on those."""
        drawn = np.random.default_rng([self._seed, 4, number]).choice(TEXTS, DRAWN, replace=False)
        base, own = self._base[torch.from_numpy(drawn).to(self._base.device)], len(tokens)

        def loss(vectors: Tensor) -> Tensor:
            return step.loss(vectors[:own]) + self._weight * distillation(vectors[own:], base)

        return [*tokens, *(self._texts[text] for text in drawn)], loss
