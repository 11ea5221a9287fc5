"""The residual head: at the start it is the base, and arrays, torch and ONNX Runtime compute the same."""

import numpy as np
import pytest
import torch

from encoder.graph import check_graph
from encoder.runtime import OUTPUT, HeadSession
from training.errors import FitFailed
from training.head_export import export_head
from training.modules import ResidualHead
from training.weights import HeadWeights


def rows(n: int, d: int = 32, seed: int = 0) -> np.ndarray:
    array = np.random.default_rng(seed).normal(size=(n, d))
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


def moved_head(hidden: int) -> ResidualHead:
    torch.manual_seed(5)
    head = ResidualHead(32, hidden)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return head.eval()


@pytest.mark.parametrize("hidden", [0, 48])
def test_an_unfitted_head_is_the_base(hidden: int) -> None:
    base = rows(50)
    head = ResidualHead(32, hidden, dropout=0.5)  # in training mode: even dropout changes nothing yet
    np.testing.assert_allclose(head(torch.from_numpy(base)).detach().numpy(), base, atol=1e-6)
    np.testing.assert_allclose(head.weights().apply(base), base, atol=1e-6)


@pytest.mark.parametrize("hidden", [0, 48])
@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_arrays_torch_and_onnx_agree(hidden: int, n: int) -> None:
    head, base = moved_head(hidden), rows(n)
    wanted = head(torch.from_numpy(base)).detach().numpy()
    weights = head.weights()
    np.testing.assert_allclose(weights.apply(base), wanted, atol=2e-6)
    np.testing.assert_allclose(HeadSession(export_head(weights)).run(base), wanted, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(wanted, axis=1), 1.0, atol=1e-5)
    assert np.abs(wanted - base).max() > 0.01


@pytest.mark.parametrize("hidden", [0, 48])
def test_the_exported_graph_passes_the_loader_and_is_reproducible(hidden: int) -> None:
    weights = moved_head(hidden).weights()
    graph = export_head(weights)
    check_graph(graph, inputs={"base"}, outputs={OUTPUT})
    assert graph == export_head(weights)


@pytest.mark.parametrize("hidden", [0, 48])
def test_weights_survive_storage_and_torch(hidden: int) -> None:
    weights, base = moved_head(hidden).weights(), rows(9)
    again = HeadWeights.from_bytes(weights.to_bytes())
    np.testing.assert_array_equal(again.apply(base), weights.apply(base))
    with torch.no_grad():
        torch_again = ResidualHead.from_weights(again)(torch.from_numpy(base)).numpy()
    np.testing.assert_allclose(torch_again, weights.apply(base), atol=2e-6)


def test_scaling_goes_from_the_base_to_the_head() -> None:
    weights, base = moved_head(48).weights(), rows(20)
    np.testing.assert_allclose(weights.scaled(0.0).apply(base), base, atol=1e-6)
    np.testing.assert_array_equal(weights.scaled(1.0).apply(base), weights.apply(base))
    near = np.linalg.norm(weights.scaled(0.5).apply(base) - base, axis=1)
    far = np.linalg.norm(weights.apply(base) - base, axis=1)
    assert (near < far).all()


def test_bad_weights_are_refused() -> None:
    with pytest.raises(FitFailed, match="cannot be read"):
        HeadWeights.from_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    weights = moved_head(0).weights()
    weights.out_bias[3] = np.nan
    with pytest.raises(FitFailed, match="not finite"):
        HeadWeights.from_bytes(weights.to_bytes())
