"""Two views of one base vector: what tells a text from itself where no other wording does."""

import torch
from torch import Tensor


def feature_views(vectors: Tensor, share: float) -> Tensor:
    """Unit rows (n, d) with a share of their components dropped at random, scaled to unit length again."""
    return torch.nn.functional.normalize(torch.nn.functional.dropout(vectors, share), dim=1, eps=1e-12)
