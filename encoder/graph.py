"""What an ONNX file may contain before a runtime sees it: plain standard operators and their own weights, no more.

The runtime follows references out of a model (external tensors, even hard links and files in the working directory)
and loads native blobs (EPContext), so the whole model is walked first.
"""

from collections.abc import Collection, Iterator

import onnx

from encoder.errors import ArtifactRefused

MAX_BYTES = 2**31 - 1  # what one protobuf message can hold
MAX_NODES = 100_000
_STANDARD = ("", "ai.onnx")


def check_graph(model_bytes: bytes, *, inputs: Collection[str], outputs: Collection[str]) -> None:
    """Refuse a model that holds anything but standard operators with weights inside the file.

    Args:
        model_bytes: The serialised model.
        inputs: Exactly the names of the graph's inputs.
        outputs: Exactly the names of the graph's outputs.

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
            if node.op_type == "EPContext":
                raise ArtifactRefused("the graph holds an EPContext node (compiled code)")
            if node.domain not in _STANDARD:
                raise ArtifactRefused(f"the graph uses the operator {node.domain}.{node.op_type}")
        for tensor in _tensors(graph):
            if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
                raise ArtifactRefused(f"the tensor {tensor.name!r} points to data outside the file")
    _require_names("inputs", [value.name for value in model.graph.input], inputs)
    _require_names("outputs", [value.name for value in model.graph.output], outputs)


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
    if sorted(found) != sorted(wanted):
        raise ArtifactRefused(f"the graph's {what} are {', '.join(found)}; they must be {', '.join(sorted(wanted))}")
