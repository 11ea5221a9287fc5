"""The residual head: at the start it is the base, and arrays, torch and ONNX Runtime compute the same."""

import numpy as np
import pytest
import torch

from encoder.graph import check_graph
from encoder.runtime import OUTPUT, HeadSession
from monitoring.recipe import Recipe
from registry.row import RowKind
from training.errors import FitFailed
from training.head_export import export_head
from training.modules import ResidualHead
from training.weights import HeadWeights

RECIPES = {
    shape: Recipe(shape=shape, hidden=48, rank=4).resolved(RowKind.LABELLED) for shape in ("linear", "low_rank", "mlp")
}


def rows(n: int, d: int = 32, seed: int = 0) -> np.ndarray:
    array = np.random.default_rng(seed).normal(size=(n, d))
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


def moved_head(shape: str) -> ResidualHead:
    torch.manual_seed(5)
    head = ResidualHead.of_recipe(32, RECIPES[shape])
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return head.eval()


@pytest.mark.parametrize("shape", list(RECIPES))
def test_an_unfitted_head_is_the_base(shape: str) -> None:
    base = rows(50)
    head = ResidualHead.of_recipe(32, RECIPES[shape], 0.5).train()  # in training mode: even dropout changes nothing yet
    np.testing.assert_allclose(head(torch.from_numpy(base)).detach().numpy(), base, atol=1e-6)
    np.testing.assert_allclose(head.weights().apply(base), base, atol=1e-6)


@pytest.mark.parametrize("shape", list(RECIPES))
@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_arrays_torch_and_onnx_agree(shape: str, n: int) -> None:
    head, base = moved_head(shape), rows(n)
    wanted = head(torch.from_numpy(base)).detach().numpy()
    weights = head.weights()
    np.testing.assert_allclose(weights.apply(base), wanted, atol=2e-6)
    np.testing.assert_allclose(HeadSession(export_head(weights)).run(base), wanted, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(wanted, axis=1), 1.0, atol=1e-5)
    assert np.abs(wanted - base).max() > 0.01


@pytest.mark.parametrize("shape", list(RECIPES))
def test_the_exported_graph_passes_the_loader_and_is_reproducible(shape: str) -> None:
    weights = moved_head(shape).weights()
    graph = export_head(weights)
    check_graph(graph, inputs={"base"}, outputs={OUTPUT})
    assert graph == export_head(weights)


@pytest.mark.parametrize("shape", list(RECIPES))
def test_weights_survive_storage_and_torch(shape: str) -> None:
    weights, base = moved_head(shape).weights(), rows(9)
    again = HeadWeights.from_bytes(weights.to_bytes())
    np.testing.assert_array_equal(again.apply(base), weights.apply(base))
    with torch.no_grad():
        torch_again = ResidualHead.from_weights(again)(torch.from_numpy(base)).numpy()
    np.testing.assert_allclose(torch_again, weights.apply(base), atol=2e-6)


def test_scaling_goes_from_the_base_to_the_head() -> None:
    weights, base = moved_head("mlp").weights(), rows(20)
    np.testing.assert_allclose(weights.scaled(0.0).apply(base), base, atol=1e-6)
    np.testing.assert_array_equal(weights.scaled(1.0).apply(base), weights.apply(base))
    near = np.linalg.norm(weights.scaled(0.5).apply(base) - base, axis=1)
    far = np.linalg.norm(weights.apply(base) - base, axis=1)
    assert (near < far).all()


def test_bad_weights_are_refused() -> None:
    with pytest.raises(FitFailed, match="cannot be read"):
        HeadWeights.from_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    weights = moved_head("linear").weights()
    weights.out_bias[3] = np.nan
    with pytest.raises(FitFailed, match="not finite"):
        HeadWeights.from_bytes(weights.to_bytes())


def test_a_low_rank_residual_is_a_linear_one_of_that_rank() -> None:
    weights = moved_head("low_rank").weights()
    assert weights.hidden_weight is not None
    product = weights.out_weight @ weights.hidden_weight
    assert np.linalg.matrix_rank(product) == 4
    linear = HeadWeights(product, weights.out_bias)
    np.testing.assert_allclose(linear.apply(rows(7)), weights.apply(rows(7)), atol=1e-6)


def test_a_recipe_that_is_not_resolved_makes_no_head() -> None:
    with pytest.raises(ValueError, match="resolved"):
        ResidualHead.of_recipe(32, Recipe())
