"""The losses against plain loops over their formulas, against numerical gradients, and at their edges."""

import math

import pytest
import torch

from training.losses import hard_labels, identity_penalty, info_nce, supcon, triplet


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


def plain_supcon(z: torch.Tensor, labels: list[int], t: float) -> float:
    terms = []
    for i in range(len(labels)):
        positives = [p for p in range(len(labels)) if p != i and labels[p] == labels[i]]
        if not positives:
            continue
        below = sum(math.exp(float(z[i] @ z[a]) / t) for a in range(len(labels)) if a != i)
        logs = [math.log(math.exp(float(z[i] @ z[p]) / t) / below) for p in positives]
        terms.append(-sum(logs) / len(positives))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0, 3, 3], [5, 5, 5]])
def test_supcon_is_its_formula(labels: list[int]) -> None:
    z = unit(len(labels), 6, seed=len(labels))
    got = supcon(z, torch.tensor(labels), 0.2)
    assert float(got) == pytest.approx(plain_supcon(z, labels, 0.2), rel=1e-10)


def test_supcon_gradient_is_right() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 1])
    z = unit(6, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: supcon(v, labels, 0.3), (z,))


@pytest.mark.parametrize("rows", [1, 4])
def test_supcon_without_positives_is_zero_and_harmless(rows: int) -> None:
    z = unit(rows, 4, seed=2).requires_grad_()
    loss = supcon(z, torch.arange(rows), 0.1)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert z.grad is not None
    assert torch.equal(z.grad, torch.zeros_like(z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_stay_finite_on_equal_and_opposite_vectors_at_a_low_temperature(dtype: torch.dtype) -> None:
    z = torch.nn.functional.normalize(torch.ones(6, 4, dtype=dtype), dim=1)
    z[3:] *= -1
    z.requires_grad_()
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    ids = torch.arange(6)
    total = supcon(z, labels, 0.005) + info_nce(z, z.flip(0), 0.005, anchor_ids=ids, positive_ids=ids + 6)
    total.backward()
    assert torch.isfinite(total)
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def plain_info_nce(
    a: torch.Tensor, p: torch.Tensor, n: torch.Tensor, ids: tuple[list[int], list[int], list[int]], t: float
) -> float:
    anchor_ids, positive_ids, negative_ids = ids

    def clash(i: int, j: int) -> bool:
        return bool({anchor_ids[i], positive_ids[i]} & {anchor_ids[j], positive_ids[j]})

    terms = []
    for i in range(len(a)):
        own = math.exp(float(a[i] @ p[i]) / t)
        row = [math.exp(float(a[i] @ p[j]) / t) for j in range(len(a)) if j != i and not clash(i, j)]
        row += [
            math.exp(float(a[i] @ n[k]) / t)
            for k in range(len(n))
            if negative_ids[k] not in (anchor_ids[i], positive_ids[i])
        ]
        column = [math.exp(float(a[j] @ p[i]) / t) for j in range(len(a)) if j != i and not clash(i, j)]
        terms.append((-math.log(own / (own + sum(row))) - math.log(own / (own + sum(column)))) / 2)
    return sum(terms) / len(terms)


@pytest.mark.parametrize(
    "ids",
    [
        ([0, 1, 2, 3], [10, 11, 12, 13], [20, 21]),
        ([0, 0, 2, 3], [10, 11, 10, 13], [13, 2]),
        ([0, 1, 2, 3], [10, 0, 12, 12], [10, 21]),
    ],
)
def test_info_nce_is_its_formula_with_repeats_masked(ids: tuple[list[int], list[int], list[int]]) -> None:
    a, p, n = unit(4, 6, 3), unit(4, 6, 4), unit(2, 6, 5)
    tensors = [torch.tensor(i) for i in ids]
    got = info_nce(a, p, 0.2, anchor_ids=tensors[0], positive_ids=tensors[1], negatives=n, negative_ids=tensors[2])
    assert float(got) == pytest.approx(plain_info_nce(a, p, n, ids, 0.2), rel=1e-10)


def test_info_nce_gradient_is_right() -> None:
    ids = torch.tensor([0, 1, 1, 3])
    a, p, n = (unit(k, 5, s).requires_grad_() for k, s in ((4, 6), (4, 7), (2, 8)))

    def loss(a: torch.Tensor, p: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        given = torch.tensor([0, 99])
        return info_nce(a, p, 0.3, anchor_ids=ids, positive_ids=ids + 10, negatives=n, negative_ids=given)

    assert torch.autograd.gradcheck(loss, (a, p, n))


def test_info_nce_of_one_answer_repeated_is_zero() -> None:
    a, p = unit(3, 4, 9), unit(1, 4, 10).repeat(3, 1)
    same = torch.zeros(3, dtype=torch.int64)
    assert float(info_nce(a, p, 0.1, anchor_ids=torch.arange(3) + 1, positive_ids=same)) == pytest.approx(0, abs=1e-12)


def test_identity_penalty_is_zero_only_for_the_base() -> None:
    z = unit(5, 4, 11)
    assert float(identity_penalty(z, z)) == pytest.approx(0, abs=1e-12)
    assert float(identity_penalty(-z, z)) == pytest.approx(2)


def plain_weighted_supcon(z: torch.Tensor, labels: list[int], t: float, w: list[float]) -> float:
    total = count = 0.0
    for i in range(len(labels)):
        positives = [p for p in range(len(labels)) if p != i and labels[p] == labels[i]]
        if not positives:
            continue
        below = sum(math.exp(float(z[i] @ z[a]) / t) for a in range(len(labels)) if a != i)
        logs = [w[p] * math.log(math.exp(float(z[i] @ z[p]) / t) / below) for p in positives]
        total -= w[i] * sum(logs) / sum(w[p] for p in positives)
        count += w[i]
    return total / count


def test_weighted_supcon_is_its_formula_and_its_gradient_is_right() -> None:
    labels, weights = [0, 1, 1, 1, 2, 0, 3], [1.0, 0.3, 0.9, 1.0, 0.5, 0.2, 0.7]
    z, w = unit(7, 6, seed=8), torch.tensor(weights, dtype=torch.float64)
    got = supcon(z, torch.tensor(labels), 0.2, w)
    assert float(got) == pytest.approx(plain_weighted_supcon(z, labels, 0.2, weights), rel=1e-10)
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: supcon(v, torch.tensor(labels), 0.3, w), (z,))


def test_equal_weights_change_no_loss_and_a_weight_near_zero_takes_a_row_out() -> None:
    labels, z = torch.tensor([0, 0, 1, 1, 2, 1, 0]), unit(7, 5, seed=9)
    equal = torch.full((7,), 0.4, dtype=torch.float64)
    losses = {
        "supcon": lambda w: supcon(z, labels, 0.2, w),
        "triplet": lambda w: triplet(z, labels, 0.3, w),
        "hard": lambda w: hard_labels(z, labels, 0.2, w, prior=0.1, hardness=1.0),
    }
    for loss in losses.values():
        assert float(loss(equal)) == pytest.approx(float(loss(None)), rel=1e-9)
    # A row that is doubted wholly still is a negative, and no more: neither an anchor nor a positive.
    doubt = torch.ones(7, dtype=torch.float64)
    doubt[5] = 1e-9
    apart = torch.tensor([0, 0, 1, 1, 2, 9, 0])
    assert float(supcon(z, labels, 0.2, doubt)) == pytest.approx(float(supcon(z, apart, 0.2)), rel=1e-6)
