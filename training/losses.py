"""Contrastive losses on unit vectors: supervised (labels) and InfoNCE (pairs), with false negatives masked."""

import torch
from torch import Tensor


def supcon(vectors: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss, the "out" form.

    Khosla et al. 2020 (arXiv 2004.11362), equation 2:
    `mean_i -1/|P(i)| sum_{p in P(i)} log( exp(z_i·z_p/t) / sum_{a != i} exp(z_i·z_a/t) )`,
    with P(i) the other items of i's label. Items without another of their label are no anchors; a batch without any
    anchor gives 0 (with a gradient of 0).

    Args:
        vectors: (n, d) unit rows.
        labels: (n,) int64.
        temperature: t > 0.

    Returns:
        Scalar, at least 0 up to rounding.
    """
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = (labels[:, None] == labels[None, :]) & ~itself
    count = positive.sum(dim=1)
    anchors = count > 0
    if not bool(anchors.any()):
        return vectors.sum() * 0.0
    logits = (vectors @ vectors.T / temperature).masked_fill(itself, -torch.inf)
    log_share = logits - torch.logsumexp(logits, dim=1, keepdim=True)
    # -inf on the diagonal must become 0 before the sum: -inf * 0 is not a number.
    total = log_share.masked_fill(~positive, 0.0).sum(dim=1)
    return -(total[anchors] / count[anchors]).mean()


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    temperature: float,
    *,
    anchor_ids: Tensor,
    positive_ids: Tensor,
    negatives: Tensor | None = None,
    negative_ids: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE with in-batch negatives and optional given ones, blind to negatives that are none.

    van den Oord et al. 2018 (arXiv 1807.03748), equation 4, in both directions as in CLIP (arXiv 2103.00020):
    the mean of `-log softmax(a_i·p_j/t)[j=i]` over rows and over columns; given negatives are further columns of the
    first direction. Entry (i, j), j != i, is no negative, and left out, where anchor i is anchor j, positive i is
    positive j, or one's anchor is the other's positive; a given negative is left out for every anchor whose text or
    positive it repeats.

    Args:
        anchors, positives: (n, d) unit rows.
        temperature: t > 0.
        anchor_ids, positive_ids: (n,) int64, equal exactly for equal texts, in one numbering.
        negatives: (m, d) unit rows; negative_ids: (m,) int64.

    Returns:
        Scalar.
    """
    n = len(anchors)
    target = torch.arange(n, device=anchors.device)
    itself = torch.eye(n, dtype=torch.bool, device=anchors.device)
    same = (
        (anchor_ids[:, None] == anchor_ids[None, :])
        | (positive_ids[:, None] == positive_ids[None, :])
        | (anchor_ids[:, None] == positive_ids[None, :])
        | (positive_ids[:, None] == anchor_ids[None, :])
    )
    logits = (anchors @ positives.T / temperature).masked_fill(same & ~itself, -torch.inf)
    forward = logits
    if negatives is not None and negative_ids is not None and len(negatives):
        known = (anchor_ids[:, None] == negative_ids[None, :]) | (positive_ids[:, None] == negative_ids[None, :])
        extra = (anchors @ negatives.T / temperature).masked_fill(known, -torch.inf)
        forward = torch.cat([logits, extra], dim=1)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(forward, target) + cross_entropy(logits.T, target)) / 2


def identity_penalty(vectors: Tensor, base: Tensor) -> Tensor:
    """Mean cosine distance between adapted and base vectors, both (n, d) unit rows: 0 when the head changes nothing."""
    return (1.0 - (vectors * base).sum(dim=1)).mean()
