"""The adapter in torch: a residual head whose last layer starts at zero, so that an unfitted head is the base model."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from monitoring.recipe import Recipe
from training.weights import HeadWeights

_WIDTH: Mapping[str, Callable[[Recipe], int]] = {
    "linear": lambda _: 0,
    "low_rank": lambda recipe: recipe.rank,
    "mlp": lambda recipe: recipe.hidden,
}


class ResidualHead(nn.Module):
    """Base vectors to adapted vectors, `HeadWeights` in words; dropout on the input while it is fitted.

    Houlsby et al. 2019 (arXiv 1902.00751), section 2.1: near-identity initialisation keeps the pretrained model as
    the starting point. Here it is exact: the output layer is zero.

    Args:
        dimension: Width d of input and output.
        hidden: Width of the hidden layer; 0 leaves it out, and the residual is linear.
        dropout: Share of input components set to 0 in training mode.
        low_rank: Whether the hidden layer has neither bias nor activation: the residual is linear, of rank `hidden`
            (as in Hu et al. 2021, arXiv 2106.09685).
    """

    def __init__(self, dimension: int, hidden: int, dropout: float = 0.0, *, low_rank: bool = False) -> None:
        super().__init__()
        self.scale = math.sqrt(dimension)
        self.dropout = nn.Dropout(dropout)
        self.low_rank = low_rank
        self.hidden = nn.Linear(dimension, hidden, bias=not low_rank) if hidden else None
        self.out = nn.Linear(hidden or dimension, dimension)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, base: Tensor) -> Tensor:
        """(n, d) unit rows to (n, d) unit rows."""
        inner = self.dropout(base * self.scale)
        if self.hidden is not None:
            inner = self.hidden(inner)
            inner = inner if self.low_rank else nn.functional.gelu(inner)
        return nn.functional.normalize(base + self.out(inner), dim=1, eps=1e-12)

    def weights(self) -> HeadWeights:
        """A copy of the weights as arrays."""
        with torch.no_grad():
            arrays = {name: value.detach().cpu().numpy().copy() for name, value in self.state_dict().items()}
        return HeadWeights(
            arrays["out.weight"], arrays["out.bias"], arrays.get("hidden.weight"), arrays.get("hidden.bias")
        )

    @classmethod
    def of_recipe(cls, dimension: int, recipe: Recipe, dropout: float = 0.0) -> "ResidualHead":
        """The head of the shape that a resolved recipe asks for, not fitted yet. Raises ValueError if not resolved."""
        if recipe.shape not in _WIDTH:
            raise ValueError("the recipe must be resolved first")
        return cls(dimension, _WIDTH[recipe.shape](recipe), dropout, low_rank=recipe.shape == "low_rank")

    @classmethod
    def from_weights(cls, weights: HeadWeights) -> "ResidualHead":
        """A head with these weights, in evaluation mode."""
        hidden = 0 if weights.hidden_weight is None else len(weights.hidden_weight)
        head = cls(weights.dimension, hidden, low_rank=weights.hidden_bias is None)
        arrays = {"out.weight": weights.out_weight, "out.bias": weights.out_bias}
        if weights.hidden_weight is not None:
            arrays["hidden.weight"] = weights.hidden_weight
        if weights.hidden_bias is not None:
            arrays["hidden.bias"] = weights.hidden_bias
        head.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
        return head.eval()
