"""Contrastive losses on unit vectors, for labels and for pairs, with false negatives masked.

Every loss takes a temperature that is a number or, where it is learned, a scalar tensor, and stays finite with finite
gradients for any unit vectors, one label only, and temperatures down to 0.005. Losses of labels take weights in (0, 1]:
how much each item's label is believed.
"""

import torch
from torch import Tensor

_NEVER = -torch.inf


def supcon(vectors: Tensor, labels: Tensor, temperature: float | Tensor, weights: Tensor | None = None) -> Tensor:
    """Supervised contrastive loss, the "out" form.

    Khosla et al. 2020 (arXiv 2004.11362), equation 2:
    `mean_i -1/|P(i)| sum_{p in P(i)} log( exp(z_i·z_p/t) / sum_{a != i} exp(z_i·z_a/t) )`,
    with P(i) the other items of i's label. Items without another of their label are no anchors; a batch without any
    anchor gives 0 (with a gradient of 0). With weights both means, over anchors and over the positives of one, are
    weighted means, so that a doubted label counts little on either side.

    Args:
        vectors: (n, d) unit rows.
        labels: (n,) int64.
        temperature: t > 0.
        weights: (n,) in (0, 1]; None weighs all alike.

    Returns:
        Scalar, at least 0 up to rounding.
    """
    positive, _, itself = _by_label(labels)
    anchors = positive.any(dim=1)
    if not bool(anchors.any()):
        return vectors.sum() * 0.0
    logits = (vectors @ vectors.T / temperature).masked_fill(itself, _NEVER)
    log_share = logits - torch.logsumexp(logits, dim=1, keepdim=True)
    # -inf on the diagonal must become 0 before the sum: -inf * 0 is not a number.
    return -_mean_of_positives(log_share.masked_fill(~positive, 0.0)[anchors], positive[anchors], anchors, weights)


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    temperature: float | Tensor,
    *,
    anchor_ids: Tensor,
    positive_ids: Tensor,
    negatives: Tensor | None = None,
    negative_ids: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE with in-batch negatives and optional given ones, blind to negatives that are none.

    van den Oord et al. 2018 (arXiv 1807.03748), equation 4, in both directions as in CLIP (arXiv 2103.00020):
    the mean of `-log softmax(a_i·p_j/t)[j=i]` over rows and over columns; given negatives are further columns of the
    first direction. `_cosines_of_pairs` says which entries are no negatives and left out.

    Args:
        anchors, positives: (n, d) unit rows.
        temperature: t > 0.
        anchor_ids, positive_ids: (n,) int64, equal exactly for equal texts, in one numbering.
        negatives: (m, d) unit rows; negative_ids: (m,) int64.

    Returns:
        Scalar.
    """
    cosines, against = _cosines_of_pairs(anchors, positives, anchor_ids, positive_ids, negatives, negative_ids)
    n = len(cosines)
    target = torch.arange(n, device=cosines.device)
    itself = torch.eye(n, cosines.shape[1], dtype=torch.bool, device=cosines.device)
    logits = (cosines / temperature).masked_fill(~(against | itself), _NEVER)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, target) + cross_entropy(logits[:, :n].T, target)) / 2


def triplet(vectors: Tensor, labels: Tensor, margin: float, weights: Tensor | None = None) -> Tensor:
    """Batch-hard triplet margin loss on cosine distances.

    Hermans et al. 2017 (arXiv 1703.07737), equation 5: `mean_i max(0, margin + max_p d(i, p) - min_n d(i, n))`, the
    farthest item of i's label against the nearest one of another, with d = 1 - cosine. Items that lack either are no
    anchors; a batch without any anchor gives 0 (with a gradient of 0).

    Args:
        vectors: (n, d) unit rows.
        labels: (n,) int64.
        margin: At least 0.
        weights: (n,) in (0, 1], of each item as an anchor; None weighs all alike.
    """
    positive, negative, _ = _by_label(labels)
    anchors = positive.any(dim=1) & negative.any(dim=1)
    if not bool(anchors.any()):
        return vectors.sum() * 0.0
    cosines = (vectors @ vectors.T)[anchors]
    farthest = cosines.masked_fill(~positive[anchors], torch.inf).amin(dim=1)
    nearest = cosines.masked_fill(~negative[anchors], _NEVER).amax(dim=1)
    terms = torch.relu(margin + nearest - farthest)
    return terms.mean() if weights is None else (weights[anchors] * terms).sum() / weights[anchors].sum()


def hard_labels(
    vectors: Tensor,
    labels: Tensor,
    temperature: float | Tensor,
    weights: Tensor | None = None,
    *,
    prior: float,
    hardness: float,
) -> Tensor:
    """Debiased, hardness-weighted contrastive loss with every item of the label as a positive; see `_weighted`.

    Each positive of an anchor is one term; an anchor counts once however many it has. Without any anchor it gives 0.

    Args:
        vectors: (n, d) unit rows.
        labels: (n,) int64.
        temperature: t > 0.
        weights: As for `supcon`.
        prior: tau+ in [0, 1): how likely a negative is mislabelled and of the anchor's kind after all.
        hardness: beta >= 0.
    """
    positive, negative, _ = _by_label(labels)
    anchors = positive.any(dim=1)
    if not bool(anchors.any()):
        return vectors.sum() * 0.0
    logits = (vectors @ vectors.T / temperature)[anchors]
    terms = _weighted(logits, logits, negative[anchors], temperature, prior, hardness)
    return _mean_of_positives(terms.masked_fill(~positive[anchors], 0.0), positive[anchors], anchors, weights)


def hard_pairs(
    anchors: Tensor,
    positives: Tensor,
    temperature: float | Tensor,
    *,
    anchor_ids: Tensor,
    positive_ids: Tensor,
    negatives: Tensor | None = None,
    negative_ids: Tensor | None = None,
    prior: float,
    hardness: float,
) -> Tensor:
    """Debiased, hardness-weighted contrastive loss of pairs, in both directions: `info_nce` with `_weighted`'s terms.

    Args:
        prior: tau+ in [0, 1): how likely a negative answers the anchor after all.
        hardness: beta >= 0; with both 0 the loss is `info_nce`.
    """
    cosines, against = _cosines_of_pairs(anchors, positives, anchor_ids, positive_ids, negatives, negative_ids)
    logits = cosines / temperature
    n = len(logits)
    own = logits.diagonal()[:, None]
    forward = _weighted(own, logits, against, temperature, prior, hardness)
    backward = _weighted(own, logits[:, :n].T, against[:, :n].T, temperature, prior, hardness)
    return (forward.mean() + backward.mean()) / 2


def identity_penalty(vectors: Tensor, base: Tensor) -> Tensor:
    """Mean cosine distance between adapted and base vectors, both (n, d) unit rows: 0 when the head changes nothing."""
    return (1.0 - (vectors * base).sum(dim=1)).mean()


def _weighted(
    own: Tensor, logits: Tensor, negative: Tensor, temperature: float | Tensor, prior: float, hardness: float
) -> Tensor:
    """`-log( e^own / (e^own + N g) )` for each positive logit `own` (n, p) of each anchor, (n, p).

    N is how many negatives the anchor has, and g estimates their mean exponential:
    `g = max( (sum_k w_k e^k - tau+ e^own) / (1 - tau+), e^(-1/t) )`, with w_k the softmax of `hardness * k` over the
    negative logits k: Robinson et al. 2021 (arXiv 2010.04592), equations 3 and 4, whose hardness beta acts on the
    logits; with hardness 0 it is Chuang et al. 2020 (arXiv 2007.00224), equation 8, and with prior 0 too InfoNCE.
    All of it is taken relative to the largest logit of the anchor, so that nothing overflows.
    """
    count = negative.sum(dim=1, keepdim=True).to(logits.dtype)
    # An anchor without negatives keeps finite numbers here, which are left out at the end.
    left_out = ~negative & (count > 0)
    tilt = (hardness * logits).masked_fill(left_out, _NEVER)
    log_mean = torch.logsumexp(tilt + logits, dim=1, keepdim=True) - torch.logsumexp(tilt, dim=1, keepdim=True)
    top = torch.maximum(log_mean, own).detach()
    mean = (torch.exp(log_mean - top) - prior * torch.exp(own - top)) / (1 - prior)
    least = torch.exp(-1.0 / torch.as_tensor(temperature, dtype=logits.dtype, device=logits.device) - top)
    estimate = torch.maximum(mean, least).clamp_min(torch.finfo(logits.dtype).tiny)
    against = torch.log(estimate) + top + torch.log(count.clamp_min(1.0))
    return torch.nn.functional.softplus(against - own) * (count > 0)


def _cosines_of_pairs(
    anchors: Tensor,
    positives: Tensor,
    anchor_ids: Tensor,
    positive_ids: Tensor,
    negatives: Tensor | None,
    negative_ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Cosines of every anchor to every positive and given negative, (n, n + m), and which of them are negatives.

    Entry (i, j), j != i, is no negative where anchor i is anchor j, positive i is positive j, or one's anchor is the
    other's positive; a given negative is none for every anchor whose text or positive it repeats.
    """
    a, p = anchor_ids[:, None], positive_ids[:, None]
    against = ~((a == a.T) | (p == p.T) | (a == p.T) | (p == a.T))  # false on the diagonal
    cosines = anchors @ positives.T
    if negatives is not None and negative_ids is not None and len(negatives):
        against = torch.cat([against, (a != negative_ids) & (p != negative_ids)], dim=1)
        cosines = torch.cat([cosines, anchors @ negatives.T], dim=1)
    return cosines, against


def _mean_of_positives(terms: Tensor, positive: Tensor, anchors: Tensor, weights: Tensor | None) -> Tensor:
    """The mean over anchors of the mean of their positives' terms (a, n), which are 0 elsewhere; weighted if wanted.

    Args:
        terms: (a, n), of the anchors alone; positive: (a, n) bool, true somewhere in each row.
        anchors: (n,) bool, which of the batch's items are anchors.
        weights: (n,) of the batch's items, or None.
    """
    if weights is None:
        return (terms.sum(dim=1) / positive.sum(dim=1)).mean()
    of_anchor = (terms @ weights) / (positive.to(weights.dtype) @ weights)
    return (weights[anchors] * of_anchor).sum() / weights[anchors].sum()


def _by_label(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n, n) bool: pairs of different items of one label, pairs of different labels, and each item with itself."""
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same = labels[:, None] == labels[None, :]
    return same & ~itself, ~same, itself
