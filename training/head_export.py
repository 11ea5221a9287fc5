"""A fitted head as an ONNX graph: built node by node, so that it holds exactly the operators it needs."""

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from encoder.runtime import OUTPUT
from training.weights import HeadWeights

OPSET = 20
# What ONNX Runtime 1.17 and later read; onnx would write its newest.
IR_VERSION = 9


def export_head(weights: HeadWeights) -> bytes:
    """The graph `base` (batch, d) float32 -> `sentence_embedding` (batch, d) float32, unit rows; weights inside."""
    dimension = weights.dimension
    constants = {
        "scale": np.array(math.sqrt(dimension), dtype=np.float32),
        "least": np.array(1e-12, dtype=np.float32),
        "axes": np.array([1], dtype=np.int64),
        "out.weight": weights.out_weight.T,
        "out.bias": weights.out_bias,
    }
    nodes = [helper.make_node("Mul", ["base", "scale"], ["scaled"])]
    inner = "scaled"
    if weights.hidden_weight is not None and weights.hidden_bias is None:
        constants["hidden.weight"] = weights.hidden_weight.T
        nodes.append(helper.make_node("Gemm", [inner, "hidden.weight"], ["hidden"]))
        inner = "hidden"
    elif weights.hidden_weight is not None:
        constants |= {"hidden.weight": weights.hidden_weight.T, "hidden.bias": weights.hidden_bias}
        nodes += [
            helper.make_node("Gemm", [inner, "hidden.weight", "hidden.bias"], ["hidden"]),
            helper.make_node("Gelu", ["hidden"], ["active"], approximate="none"),
        ]
        inner = "active"
    nodes += [
        helper.make_node("Gemm", [inner, "out.weight", "out.bias"], ["residual"]),
        helper.make_node("Add", ["base", "residual"], ["moved"]),
        helper.make_node("ReduceL2", ["moved", "axes"], ["length"], keepdims=1),
        helper.make_node("Max", ["length", "least"], ["divisor"]),
        helper.make_node("Div", ["moved", "divisor"], [OUTPUT]),
    ]
    shape: list[str | int | None] = ["batch", dimension]
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("base", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)],
        initializer=[
            numpy_helper.from_array(np.ascontiguousarray(array), name=name) for name, array in constants.items()
        ],
    )
    model = helper.make_model(
        graph,
        producer_name="driftline",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
