"""Masked-token prediction beside the contrastive loss of a LoRA fit: the model keeps reading words while it is pulled.

Devlin et al. 2019, "BERT" (arXiv 1810.04805), section 3.1: 15 % of the tokens are hidden, 80 % of those behind the mask
token, 10 % behind a random token, 10 % left as they are, and the model is asked what stood there.

A sentence model has lost the layer that answered this. Its place is taken by the input embeddings (tied, as in Press
and Wolf 2017, arXiv 1608.05859) behind one linear map from the model's last vectors to them. The map is fitted by ridge
regression on the model as it was, before the first step, and then stays: nothing is trained that is not the adapter, a
fit that was killed makes the same map again, and nothing of it is stored. Answers are looked for among the tokens that
occur in the fitted texts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import tokenizers
import torch
from torch import Tensor

from encoder.batch import TokenIds, plan_batches
from training.errors import FitFailed
from training.lora_model import LoraModel
from training.team import Team

SHARE: Final = 0.15
_HIDDEN: Final = 0.8
_RANDOM: Final = 0.1
_SAMPLE: Final = 512
"""Texts on which the map is fitted."""
_RIDGE: Final = 0.1
_SCALES: Final = tuple(2.0**power for power in range(-4, 8))
_MASKS: Final = ("[MASK]", "<mask>")


@dataclass(frozen=True, slots=True)
class MaskIds:
    """Token numbers: of the mask, and of the tokens that are never hidden."""

    mask: int
    special: frozenset[int]


def mask_ids(tokenizer: bytes) -> MaskIds:
    """The mask token of a `tokenizer.json`.

    Raises:
        FitFailed: It has none.
    """
    read = tokenizers.Tokenizer.from_buffer(tokenizer)
    added = read.get_added_tokens_decoder()
    special = frozenset(number for number, token in added.items() if token.special)
    for name in _MASKS:
        if (number := read.token_to_id(name)) is not None:
            return MaskIds(number, special | {number})
    raise FitFailed("the backbone's tokenizer has no mask token; leave lora.masked out of the recipe")


def hide(
    tokens: TokenIds, ids: MaskIds, others: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[list[list[int]], list[list[int]]]:
    """Texts with some tokens hidden, and the places (ascending) where, text by text.

    Of each text's tokens that are not special, SHARE are asked for, at least one where there is one.

    Args:
        tokens: Token ids of the texts, which stay as they are.
        ids: Of the tokenizer.
        others: Tokens that stand in at random.
        rng: Source of randomness.
    """
    hidden, places = [], []
    for row in tokens:
        able = [place for place, token in enumerate(row) if token not in ids.special]
        count = min(len(able), max(1, round(SHARE * len(able))))
        asked = sorted(rng.choice(able, count, replace=False).tolist()) if count else []
        changed = list(row)
        for place, draw in zip(asked, rng.random(count), strict=True):
            if draw < _HIDDEN:
                changed[place] = ids.mask
            elif draw < _HIDDEN + _RANDOM:
                changed[place] = int(rng.choice(others))
        hidden.append(changed)
        places.append(asked)
    return hidden, places


class MaskedTokens:
    """The auxiliary objective of one fit.

    Args:
        model: The model with its adapter, in the precision of the fit.
        tokens: Token ids of the fit's texts.
        ids: Of the tokenizer.
        chunk_tokens: Most tokens of a run, padding included.
        seed: Of all draws.
        team: The processes that share the work.

    Raises:
        FitFailed: The texts have no token that could be hidden.
    """

    def __init__(
        self, model: LoraModel, tokens: TokenIds, ids: MaskIds, *, chunk_tokens: int, seed: int, team: Team
    ) -> None:
        self._model, self._tokens, self._ids = model, tokens, ids
        self._chunk_tokens, self._seed, self._team = chunk_tokens, seed, team
        numbers, counts = np.unique(np.concatenate([np.asarray(row, np.int64) for row in tokens]), return_counts=True)
        able = ~np.isin(numbers, list(ids.special))
        if not able.any():
            raise FitFailed("the texts have no token that could be masked; leave lora.masked out of the recipe")
        self._answers = numbers[able]
        frequency = torch.from_numpy(counts[able] / counts[able].sum())
        self._prior = torch.log(frequency).float().to(team.device)
        self._embeddings = model.embeddings(torch.from_numpy(self._answers).to(team.device))
        self._map, self._scale = self._fitted_map()

    def add_gradient(self, texts: Sequence[int], step: int, weight: float, parameters: Sequence[Tensor]) -> float:
        """Add `weight` times the gradient of the mean cross-entropy over the hidden tokens to each parameter's `grad`.

        Args:
            texts: Numbers of the step's texts, the same in every process.
            step: Number of the step, on which the draws depend.
            weight: Above 0.
            parameters: What is fitted; each has a `grad`.

        Returns:
            The mean cross-entropy.
        """
        hidden, places, answers = self._drawn(texts, step)
        total = max(1, sum(len(part) for part in places))
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        found = torch.zeros((), device=self._team.device)
        chunks = plan_batches([len(row) for row in hidden], self._chunk_tokens)
        for rows in chunks[self._team.rank :: self._team.size]:
            vectors = self._at(hidden, places, rows)
            asked = torch.cat([answers[row] for row in rows])
            loss = torch.nn.functional.cross_entropy(self._logits(vectors), asked, reduction="sum") / total
            found += loss.detach()
            for into, gradient in zip(sums, torch.autograd.grad(loss, list(parameters)), strict=True):
                into += gradient
        self._team.add_up(found)
        for parameter, gradient in zip(parameters, sums, strict=True):
            self._team.add_up(gradient)
            parameter.grad = weight * gradient if parameter.grad is None else parameter.grad + weight * gradient
        return float(found)

    def _drawn(self, texts: Sequence[int], step: int) -> tuple[list[list[int]], list[list[int]], list[Tensor]]:
        """The texts with tokens hidden, where, and what stood there, as places among the answers."""
        rows = [self._tokens[text] for text in texts]
        hidden, places = hide(rows, self._ids, self._answers, np.random.default_rng([self._seed, 2, step]))
        answers = [
            torch.from_numpy(np.searchsorted(self._answers, [row[place] for place in part])).to(self._team.device)
            for row, part in zip(rows, places, strict=True)
        ]
        return hidden, places, answers

    def _at(self, hidden: list[list[int]], places: list[list[int]], rows: Sequence[int]) -> Tensor:
        """The last vectors (k, h) of the hidden tokens of some texts, in their order."""
        vectors = self._model.hidden([hidden[row] for row in rows])
        return torch.cat([vectors[at, places[row]] for at, row in enumerate(rows)])

    def _logits(self, vectors: Tensor) -> Tensor:
        """(k, answers) of last vectors (k, h)."""
        return self._scale * (_with_one(vectors) @ self._map) @ self._embeddings.T + self._prior

    def _fitted_map(self) -> tuple[Tensor, float]:
        """The map (h + 1, e) from last vectors to input embeddings, and the scale of the logits with the least loss."""
        sample = np.linspace(0, len(self._tokens) - 1, min(_SAMPLE, len(self._tokens))).astype(np.int64).tolist()
        hidden, places, answers = self._drawn(sample, 0)
        with self._model.without(), torch.no_grad():
            chunks = plan_batches([len(row) for row in hidden], self._chunk_tokens)
            inputs = _with_one(torch.cat([self._at(hidden, places, rows) for rows in chunks]))
        asked = torch.cat([answers[row] for rows in chunks for row in rows])
        gram = (inputs.T @ inputs).double() / len(inputs)
        ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        wanted = (inputs.T @ self._embeddings[asked]).double() / len(inputs)
        mapped = torch.linalg.solve(gram + ridge, wanted).float()
        plain = (inputs @ mapped) @ self._embeddings.T
        losses = {
            scale: float(torch.nn.functional.cross_entropy(scale * plain + self._prior, asked)) for scale in _SCALES
        }
        best = min((loss, scale) for scale, loss in losses.items() if math.isfinite(loss))
        return mapped, self._team.of_first(best[1])


def _with_one(vectors: Tensor) -> Tensor:
    return torch.cat([vectors, vectors.new_ones(len(vectors), 1)], dim=1)
