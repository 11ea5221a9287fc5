"""The adapter in torch: a residual head whose last layer starts at zero, so that an unfitted head is the base model."""

import math

import torch
from torch import Tensor, nn

from training.weights import HeadWeights


class ResidualHead(nn.Module):
    """Base vectors to adapted vectors, `HeadWeights` in words; dropout on the input while it is fitted.

    Houlsby et al. 2019 (arXiv 1902.00751), section 2.1: near-identity initialisation keeps the pretrained model as
    the starting point. Here it is exact: the output layer is zero.

    Args:
        dimension: Width d of input and output.
        hidden: Width of the hidden layer; 0 leaves it out, and the residual is linear.
        dropout: Share of input components set to 0 in training mode.
    """

    def __init__(self, dimension: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = math.sqrt(dimension)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(dimension, hidden) if hidden else None
        self.out = nn.Linear(hidden or dimension, dimension)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, base: Tensor) -> Tensor:
        """(n, d) unit rows to (n, d) unit rows."""
        inner = self.dropout(base * self.scale)
        if self.hidden is not None:
            inner = nn.functional.gelu(self.hidden(inner))
        return nn.functional.normalize(base + self.out(inner), dim=1, eps=1e-12)

    def weights(self) -> HeadWeights:
        """A copy of the weights as arrays."""
        with torch.no_grad():
            arrays = {name: value.detach().cpu().numpy().copy() for name, value in self.state_dict().items()}
        return HeadWeights(
            arrays["out.weight"], arrays["out.bias"], arrays.get("hidden.weight"), arrays.get("hidden.bias")
        )

    @classmethod
    def from_weights(cls, weights: HeadWeights) -> "ResidualHead":
        """A head with these weights, in evaluation mode."""
        hidden = 0 if weights.hidden_weight is None else len(weights.hidden_weight)
        head = cls(weights.dimension, hidden)
        arrays = {"out.weight": weights.out_weight, "out.bias": weights.out_bias}
        if weights.hidden_weight is not None and weights.hidden_bias is not None:
            arrays |= {"hidden.weight": weights.hidden_weight, "hidden.bias": weights.hidden_bias}
        head.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
        return head.eval()
