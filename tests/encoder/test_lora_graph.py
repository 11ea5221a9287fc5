"""Branches in graphs of other shapes than BERT's: shared layers, modules without a bias, statically quantised ones."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from encoder.errors import ArtifactRefused
from encoder.lora_graph import CHOSEN, input_name, linear_sites, slots_of, with_branches
from encoder.runtime import OUTPUT, open_session

DRAW = np.random.default_rng(4)
W1, W2 = (DRAW.normal(size=shape, scale=0.5).astype(np.float32) for shape in ((6, 8), (8, 6)))
BIAS = DRAW.normal(size=8).astype(np.float32)
TABLE = DRAW.normal(size=(20, 6)).astype(np.float32)


def model(nodes, more=()):
    """Tokens (b, t) through a table, `nodes` from `x` to `y`, and a sum over tokens."""
    head = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        helper.make_node("Cast", ["attention_mask"], ["unused"], to=TensorProto.FLOAT),
    ]
    tail = [helper.make_node("ReduceSum", ["y", "one"], [OUTPUT], keepdims=0)]
    tensors = {"table": TABLE, "one": np.array([1]), "model.up.weight": W1, "model.up.bias": BIAS}
    tensors |= {"model.down.weight": W2, **dict(more)}
    graph = helper.make_graph(
        [*head, *nodes, *tail],
        "g",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", None])],
        initializer=[numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def up_and_down(times=1):
    nodes, x = [], "x"
    for turn in range(times):
        nodes += [
            helper.make_node("MatMul", [x, "model.up.weight"], [f"p{turn}"]),
            helper.make_node("Add", ["model.up.bias", f"p{turn}"], [f"h{turn}"]),
            helper.make_node("MatMul", [f"h{turn}", "model.down.weight"], [f"d{turn}"]),
        ]
        x = f"d{turn}"
    return [*nodes, helper.make_node("Identity", [x], ["y"])]


def run(proto_bytes, adapters, rows, layout):
    """Vectors of a batch whose row i is under adapters[rows[i]] (module -> (A, B)), -1 for none."""
    ranks = [len(next(iter(adapter.values()))[0]) for adapter in adapters]
    owner = np.repeat(np.arange(len(adapters)), ranks)
    feed = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
    chosen = (np.array(rows)[:, None] == owner)[:, None, :]
    feed[CHOSEN] = np.broadcast_to(chosen, (*IDS.shape, len(owner))).copy()
    for width, slots in layout.slots.items():
        stack = [np.concatenate([adapter[name]["AB".index(side)] for adapter in adapters]) for name, side in slots]
        feed[input_name(width)] = np.stack(stack)
    return open_session(proto_bytes, "cpu", "fp32").run_feed(feed)


IDS = DRAW.integers(0, 20, (3, 5))


def adapter(rank):
    shapes = {"up": (6, 8), "down": (8, 6)}
    return {
        name: (DRAW.normal(size=(rank, i)).astype(np.float32), DRAW.normal(size=(rank, o)).astype(np.float32))
        for name, (i, o) in shapes.items()
    }


def by_hand(adapters, rows, times):
    found = []
    for ids, row in zip(IDS, rows, strict=True):
        own = adapters[row] if row >= 0 else None
        up = W1 + own["up"][0].T @ own["up"][1] if own else W1
        down = W2 + own["down"][0].T @ own["down"][1] if own else W2
        x = TABLE[ids]
        for _ in range(times):
            x = (x @ up + BIAS) @ down
        found.append(x.sum(axis=0))
    return np.stack(found)


@pytest.mark.parametrize("times", [1, 3])
def test_modules_with_and_without_bias_and_used_again(times):
    proto = model(up_and_down(times))
    sites = linear_sites(proto)
    assert {name: (site.width_in, site.width_out, len(site.places)) for name, site in sites.items()} == {
        "up": (6, 8, times),
        "down": (8, 6, times),
    }
    assert sites["up"].places[0].writes == "h0"  # after the bias
    data, layout = with_branches(proto.SerializeToString(), ["up", "down"])
    adapters = [adapter(2), adapter(3)]
    np.testing.assert_allclose(
        run(data, adapters, [1, -1, 0], layout), by_hand(adapters, [1, -1, 0], times), rtol=1e-4, atol=1e-3
    )


def test_the_order_of_matrices_is_the_same_for_all():
    shapes = {"b": (6, 8), "a": (6, 6)}
    assert slots_of(shapes) == {6: (("a", "A"), ("a", "B"), ("b", "A")), 8: (("b", "B"),)}
    assert slots_of(dict(reversed(shapes.items()))) == slots_of(shapes)


def test_a_quantised_module_is_found_and_its_branch_reads_unrounded_numbers():
    scale, zero = np.array(0.02, np.float32), np.array(0, np.int8)
    ints = np.clip(np.round(W1 / 0.02), -128, 127).astype(np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["model.up.weight_q", "s", "z"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["p"]),
        helper.make_node("Add", ["p", "model.up.bias"], ["y"]),
    ]
    proto = model(nodes, {"s": scale, "z": zero, "model.up.weight_q": ints}.items())
    sites = linear_sites(proto)
    assert sites.keys() == {"up"}
    assert sites["up"].places[0].reads == "x"
    data, layout = with_branches(proto.SerializeToString(), ["up"])
    onnx.checker.check_model(onnx.load_model_from_string(data))
    pair = {"up": (DRAW.normal(size=(2, 6)).astype(np.float32), DRAW.normal(size=(2, 8)).astype(np.float32))}
    plain = run(data, [pair], [-1, -1, -1], layout)
    moved = run(data, [pair], [0, -1, 0], layout)
    np.testing.assert_allclose(moved[1], plain[1], atol=1e-5)
    wanted = (TABLE[IDS[0]] @ pair["up"][0].T @ pair["up"][1]).sum(axis=0)
    np.testing.assert_allclose(moved[0] - plain[0], wanted, rtol=1e-3, atol=1e-3)


def test_an_unknown_module_is_refused():
    with pytest.raises(ArtifactRefused, match="no Linear module named sideways"):
        with_branches(model(up_and_down()).SerializeToString(), ["up", "sideways"])


def test_the_real_backbones_modules_are_all_found(blobs):
    sites = linear_sites(onnx.load_model_from_string(blobs.file("model.onnx")))
    kinds = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    kinds += ("intermediate.dense", "output.dense")
    assert sites.keys() == {f"encoder.layer.{layer}.{kind}" for layer in range(6) for kind in kinds}
    assert all(site.weight == f"model.{name}.weight" for name, site in sites.items())
    assert (sites["encoder.layer.5.output.dense"].width_in, sites["encoder.layer.5.output.dense"].width_out) == (
        1536,
        384,
    )
