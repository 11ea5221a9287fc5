"""The gradient of a loss over a whole batch, in the memory of a small one, by one process or by several.

Gradient caching (Gao, Zhang, Han and Callan 2021, arXiv 2101.06983): a contrastive loss needs all vectors of a batch at
once, but the gradient of the weights is a sum over texts once the gradient of the loss by each vector is known. So the
vectors are computed first and their activations dropped; the loss gives its gradient by each vector; then every chunk
is run again, and that gradient is passed back through it. The result is the gradient of the whole batch, not an
approximation.

Between processes the chunks are dealt out like cards, the vectors are gathered before the loss (every process then
sees all negatives), and the gradients of the weights are added up at the end.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from encoder.batch import TokenIds, plan_batches
from training.team import Team

Encode = Callable[[TokenIds], Tensor]
"""Vectors (n, d) float32 of the texts of one run, with a graph where gradients are on."""


def backward(
    encode: Encode,
    tokens: TokenIds,
    loss: Callable[[Tensor], Tensor],
    parameters: Sequence[torch.nn.Parameter],
    *,
    dimension: int,
    chunk_tokens: int,
    held_tokens: int,
    seed: Sequence[int],
    team: Team,
) -> float:
    """Set the `grad` of each parameter to that of `loss` over the vectors of all texts.

    Args:
        encode: Runs the model on a part of the texts.
        tokens: Token ids of each text of the batch, the same in every process.
        loss: Takes the vectors (n, d) in the order of `tokens`; it has no parameters of its own.
        parameters: What is fitted; their gradients before are dropped.
        dimension: d.
        chunk_tokens: Most tokens of a run, padding included.
        held_tokens: Most tokens whose activations are held from the first run; with more, every chunk is run twice.
        seed: Draws of dropout follow from it and the number of the chunk alone, so that a second run repeats the first.
        team: The processes that share the work.

    Returns:
        The loss.
    """
    lengths = [len(row) for row in tokens]
    chunks = list(enumerate(plan_batches(lengths, chunk_tokens)))[team.rank :: team.size]
    held = sum(len(rows) * lengths[rows[-1]] for _, rows in chunks) <= held_tokens

    def run(number: int, rows: list[int]) -> Tensor:
        torch.manual_seed(int(np.random.SeedSequence([*seed, number]).generate_state(1)[0]))
        return encode([tokens[row] for row in rows])

    vectors = torch.zeros(len(tokens), dimension, device=team.device)
    parts = []
    for number, rows in chunks:
        with torch.set_grad_enabled(held):
            part = run(number, rows)
        vectors[rows] = part.detach()
        parts.append(part)
    team.add_up(vectors)
    vectors.requires_grad_()
    value = loss(vectors)
    (by_vector,) = torch.autograd.grad(value, vectors)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for (number, rows), part in zip(chunks, parts, strict=True):
        again = part if held else run(number, rows)
        again.backward(by_vector[rows])  # type: ignore[no-untyped-call]
    _add_up_gradients(parameters, team)
    return float(value.detach())


def _add_up_gradients(parameters: Sequence[torch.nn.Parameter], team: Team) -> None:
    """Sum of the gradients over the processes, in one message."""
    if team.size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    team.add_up(together)
    parts = torch.split(together, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
