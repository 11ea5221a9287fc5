"""Triplets and hardness-weighted losses against numpy loops over their formulas, numerical gradients, and edges."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.losses import hard_labels, hard_pairs, info_nce, triplet


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


def plain_term(own: float, against: list[float], t: float, prior: float, hardness: float) -> float:
    """One term as the papers write it, with nothing done for the sake of rounding."""
    if not against:
        return 0.0
    exponentials = np.exp(np.array(against) / t)
    weights = exponentials**hardness / np.sum(exponentials**hardness)
    estimate = (np.sum(weights * exponentials) - prior * math.exp(own / t)) / (1 - prior)
    below = math.exp(own / t) + len(against) * max(estimate, math.exp(-1 / t))
    return -math.log(math.exp(own / t) / below)


def plain_labels(z: np.ndarray, labels: list[int], t: float, prior: float, hardness: float) -> float:
    s, means = z @ z.T, []
    for i, label in enumerate(labels):
        positives = [p for p, other in enumerate(labels) if p != i and other == label]
        against = [float(s[i, k]) for k, other in enumerate(labels) if other != label]
        if positives:
            means.append(np.mean([plain_term(float(s[i, p]), against, t, prior, hardness) for p in positives]))
    return float(np.mean(means))


@pytest.mark.parametrize(("prior", "hardness"), [(0.0, 0.0), (0.1, 0.0), (0.0, 1.0), (0.05, 2.5), (0.6, 0.5)])
@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0, 3, 3], [4, 4, 4]])
def test_labels_are_their_formula(labels: list[int], prior: float, hardness: float) -> None:
    z = unit(len(labels), 6, seed=len(labels))
    got = float(hard_labels(z, torch.tensor(labels), 0.2, prior=prior, hardness=hardness))
    assert got == pytest.approx(plain_labels(z.numpy(), labels, 0.2, prior, hardness), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("prior", "hardness"), [(0.1, 0.0), (0.0, 1.5), (0.05, 1.0)])
def test_pairs_are_their_formula_and_blind_to_repeats(prior: float, hardness: float) -> None:
    a, p, n = unit(4, 6, 3), unit(4, 6, 4), unit(2, 6, 5)
    a_ids, p_ids, n_ids = [0, 0, 2, 3], [10, 11, 10, 13], [13, 2]
    got = hard_pairs(
        a, p, 0.2,
        anchor_ids=torch.tensor(a_ids), positive_ids=torch.tensor(p_ids), negatives=n,
        negative_ids=torch.tensor(n_ids), prior=prior, hardness=hardness,
    )  # fmt: skip

    def apart(i: int, j: int) -> bool:
        return not {a_ids[i], p_ids[i]} & {a_ids[j], p_ids[j]}

    s, given = (a @ p.T).numpy(), (a @ n.T).numpy()
    terms = []
    for i in range(4):
        row = [s[i, j] for j in range(4) if apart(i, j)]
        row += [given[i, k] for k in range(2) if n_ids[k] not in (a_ids[i], p_ids[i])]
        column = [s[j, i] for j in range(4) if apart(i, j)]
        terms += [plain_term(s[i, i], side, 0.2, prior, hardness) for side in (row, column)]
    assert float(got) == pytest.approx(np.mean(terms), rel=1e-9)


def test_without_prior_and_hardness_pairs_are_info_nce() -> None:
    a, p, ids = unit(5, 6, 3), unit(5, 6, 4), torch.arange(5)
    plain = info_nce(a, p, 0.1, anchor_ids=ids, positive_ids=ids + 9)
    hard = hard_pairs(a, p, 0.1, anchor_ids=ids, positive_ids=ids + 9, prior=0.0, hardness=0.0)
    assert float(hard) == pytest.approx(float(plain), rel=1e-12)


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0, 3], [0, 0, 0], [0, 1, 2]])
def test_triplets_are_their_formula(labels: list[int]) -> None:
    z = unit(len(labels), 5, seed=7)
    distance, terms = 1 - (z @ z.T).numpy(), []
    for i, label in enumerate(labels):
        same = [distance[i, p] for p, other in enumerate(labels) if p != i and other == label]
        others = [distance[i, n] for n, other in enumerate(labels) if other != label]
        if same and others:
            terms.append(max(0.0, 0.3 + max(same) - min(others)))
    assert float(triplet(z, torch.tensor(labels), 0.3)) == pytest.approx(np.mean(terms) if terms else 0.0)


def test_gradients_are_right() -> None:
    labels, ids = torch.tensor([0, 0, 1, 1, 2, 1]), torch.tensor([0, 1, 1, 3])
    z = unit(6, 4, seed=1).requires_grad_()
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: triplet(v, labels, 0.5), (z,))
    assert torch.autograd.gradcheck(lambda v, t: hard_labels(v, labels, t, prior=0.05, hardness=1.5), (z, t))
    a, p, n = (unit(k, 5, s).requires_grad_() for k, s in ((4, 6), (4, 7), (2, 8)))

    def pairs(a: torch.Tensor, p: torch.Tensor, n: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        given_ids = torch.tensor([0, 99])
        return hard_pairs(
            a, p, t, anchor_ids=ids, positive_ids=ids + 10, negatives=n, negative_ids=given_ids, prior=0.1, hardness=1.0
        )

    assert torch.autograd.gradcheck(pairs, (a, p, n, t))


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    temperature=st.sampled_from([0.005, 0.02, 0.1, 2.0]),
    prior=st.sampled_from([0.0, 0.1, 0.9]),
    hardness=st.sampled_from([0.0, 1.0, 20.0]),
    spread=st.sampled_from([0.0, 1e-3, 1.0]),
)
def test_losses_and_gradients_are_finite_whatever_the_batch(
    labels: list[int], temperature: float, prior: float, hardness: float, spread: float
) -> None:
    n = len(labels)
    signs = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0)[:, None]
    raw = (signs + spread * torch.randn(n, 4, generator=torch.Generator().manual_seed(n))).requires_grad_()
    z = torch.nn.functional.normalize(raw, dim=1)
    codes, ids = torch.tensor(labels), torch.tensor(labels)
    total = (
        triplet(z, codes, 0.2)
        + hard_labels(z, codes, temperature, prior=prior, hardness=hardness)
        + hard_pairs(z, z.flip(0), temperature, anchor_ids=ids, positive_ids=ids + 2, prior=prior, hardness=hardness)
    )
    total.backward()
    assert torch.isfinite(total)
    assert float(total.detach()) >= 0
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()


@pytest.mark.parametrize("labels", [[0], [0, 1, 2]])
def test_batches_without_anchors_give_zero_and_no_gradient(labels: list[int]) -> None:
    z = unit(len(labels), 4, seed=2).requires_grad_()
    codes = torch.tensor(labels)
    loss = triplet(z, codes, 0.2) + hard_labels(z, codes, 0.1, prior=0.1, hardness=1.0)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert z.grad is not None
    assert torch.equal(z.grad, torch.zeros_like(z))
