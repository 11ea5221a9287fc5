"""What an ONNX file may contain before a runtime sees it: plain standard operators and their own weights, no more.

The runtime follows references out of a model (external tensors, even hard links and files in the working directory)
and loads native blobs (EPContext), so the whole model is walked first. A few bytes could also make it compute without
end or fill the memory (Loop, Expand to a shape of 2**40): operators that repeat, and large shapes that are written in
the file, are refused; sizes that a graph computes are not looked at. A head may have arithmetic only.
"""

import math
from collections.abc import Collection, Iterator

import onnx

from encoder.errors import ArtifactRefused

MAX_BYTES = 2**31 - 1  # what one protobuf message can hold
MAX_NODES = 100_000
MAX_ELEMENTS = 2**28
"""Of a tensor that is made from a shape written in the file."""
_STANDARD = ("", "ai.onnx")
_REPEATING = frozenset({"Loop", "Scan", "SequenceMap"})
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_SHAPED = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Range": 1, "Resize": 3, "Pad": 1, "OneHot": 1}
"""Operators that make a tensor as large as a number says -> which of their inputs says it."""
HEAD_OPERATORS = frozenset({
    "Add", "Cast", "Clip", "Constant", "Div", "Erf", "Gelu", "Gemm", "Identity", "LayerNormalization",
    "LpNormalization", "MatMul", "Max", "Min", "Mul", "Neg", "Pow", "ReduceL2", "ReduceSum", "Relu", "Sigmoid", "Sqrt",
    "Sub", "Tanh",
})  # fmt: skip
"""What a head may consist of: none of them makes more rows than it is given."""


def check_graph(
    model_bytes: bytes,
    *,
    inputs: Collection[str],
    outputs: Collection[str],
    operators: Collection[str] | None = None,
) -> None:
    """Refuse a model that holds anything but standard operators with weights inside the file.

    Args:
        model_bytes: The serialised model.
        inputs: Exactly the names of the graph's inputs.
        outputs: Exactly the names of the graph's outputs.
        operators: The only ones allowed; None for all of ONNX's own but those that repeat or draw at random.

    Raises:
        ArtifactRefused: Names the first thing that is not allowed and where it is.
    """
    if len(model_bytes) > MAX_BYTES:
        raise ArtifactRefused(f"the graph has {len(model_bytes)} bytes, the limit is {MAX_BYTES}")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(model_bytes)
    except Exception as error:  # protobuf's own exception; its package has no types
        raise ArtifactRefused("the graph is not an ONNX model") from error
    for opset in model.opset_import:
        if opset.domain not in _STANDARD:
            raise ArtifactRefused(f"the graph imports the operator domain {opset.domain!r}; only ONNX's own is allowed")
    if model.functions:
        raise ArtifactRefused(f"the graph defines its own operator {model.functions[0].name!r}")
    if model.training_info:
        raise ArtifactRefused("the graph holds training information")
    nodes = 0
    for graph in _graphs(model.graph):
        nodes += len(graph.node)
        if nodes > MAX_NODES:
            raise ArtifactRefused(f"the graph has more than {MAX_NODES} nodes")
        for node in graph.node:
            if not all(isinstance(word, str) for word in (node.op_type, node.domain, *node.input, *node.output)):
                raise ArtifactRefused("the graph holds names that are not UTF-8")  # protobuf gives those as bytes
            if node.op_type == "EPContext":
                raise ArtifactRefused("the graph holds an EPContext node (compiled code)")
            if node.op_type in _REPEATING or node.op_type in _RANDOM:
                raise ArtifactRefused(f"the graph uses {node.op_type}; it may neither repeat nor draw at random")
            if operators is not None and node.op_type not in operators and node.domain in _STANDARD:
                raise ArtifactRefused(f"the graph uses {node.op_type}, which is not among what it may consist of")
            if node.domain not in _STANDARD:
                raise ArtifactRefused(f"the graph uses the operator {node.domain}.{node.op_type}")
        _check_shapes(graph)
        for tensor in _tensors(graph):
            if not isinstance(tensor.name, str):
                raise ArtifactRefused("the graph holds names that are not UTF-8")
            if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
                raise ArtifactRefused(f"the tensor {tensor.name!r} points to data outside the file")
    _require_names("inputs", [value.name for value in model.graph.input], inputs)
    _require_names("outputs", [value.name for value in model.graph.output], outputs)


def _check_shapes(graph: onnx.GraphProto) -> None:
    """Refuse shapes that are written in one graph and would make a tensor of more than MAX_ELEMENTS."""
    numbers = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and len(node.output) == 1:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    numbers[node.output[0]] = attribute.t
    for node in graph.node:
        place = _SHAPED.get(node.op_type)
        if place is None or place >= len(node.input) or (tensor := numbers.get(node.input[place])) is None:
            continue
        if math.prod(max(1, abs(number)) for number in _integers(tensor)) > MAX_ELEMENTS:
            raise ArtifactRefused(f"the graph's {node.op_type} would make more than {MAX_ELEMENTS} numbers")


def _integers(tensor: onnx.TensorProto) -> list[int]:
    """The whole numbers of a small tensor; none of one that is large, malformed or of another type."""
    if tensor.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.INT32) or len(tensor.raw_data) > 512:
        return []
    try:
        return [int(number) for number in onnx.numpy_helper.to_array(tensor).ravel()[:64]]
    except Exception:  # noqa: BLE001  the runtime will say what is wrong with it
        return []


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every subgraph within it, without recursion: depth is under the file's control."""
    waiting = [graph]
    while waiting:
        current = waiting.pop()
        yield current
        for node in current.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    waiting.append(attribute.g)
                waiting.extend(attribute.graphs)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of one graph: initializers, sparse ones, and those in attributes of its nodes."""
    sparse = list(graph.sparse_initializer)
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                sparse.append(attribute.sparse_tensor)
            sparse.extend(attribute.sparse_tensors)
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices


def _require_names(what: str, found: list[str], wanted: Collection[str]) -> None:
    names = [str(name) for name in found]  # one that is not UTF-8 comes as bytes
    if sorted(names) != sorted(wanted):
        raise ArtifactRefused(f"the graph's {what} are {', '.join(names)}; they must be {', '.join(sorted(wanted))}")
