"""Room for LoRA branches in a backbone's graph: where its Linear modules are, and the graph with open inputs there.

A branch adds `((x @ A.T) where the token has chosen that column) @ B` to the output of a Linear module. The ranks of
all adapters of a batch lie side by side as columns, so that one run serves texts of different adapters and ranks; a
token that chose no column is the backbone's. The names of modules are read from the graph: the exporter keeps those
of biases, and of weights where a module has no bias.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from encoder.errors import ArtifactRefused

Side = Literal["A", "B"]
CHOSEN = "lora/chosen"
SMOOTHED = "/smoothed"
"""Ending of the name of an activation that was scaled channel by channel before it was quantised."""
_PREFIX = "model."  # what the exported module calls the pretrained one


@dataclass(frozen=True, slots=True)
class Place:
    """One use of a Linear module: the tensor it reads, and the one that holds its output, bias included."""

    reads: str
    writes: str


@dataclass(frozen=True, slots=True)
class Site:
    """A Linear module of the backbone.

    Attributes:
        width_in, width_out: Features it reads and writes.
        weight: Name of its weight in the graph, (width_in, width_out).
        places: Where it is used; more than once where layers share their weights.
    """

    width_in: int
    width_out: int
    weight: str
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """What the open inputs of a graph stand for.

    Attributes:
        sites: Names of the modules that have a branch.
        slots: Width -> the matrices of that width, in the order in which the input `input_name(width)` stacks them:
            A is (r, in) and B is (r, out), so that both are stacked over rank and width.
    """

    sites: frozenset[str]
    slots: Mapping[int, tuple[tuple[str, Side], ...]]


def input_name(width: int) -> str:
    """Name of the input that takes the stacked matrices of one width: (slots, columns, width) float32."""
    return f"lora/{width}"


def slots_of(shapes: Mapping[str, tuple[int, int]]) -> dict[int, tuple[tuple[str, Side], ...]]:
    """The canonical order of the matrices of modules given as name -> (features in, features out)."""
    found: dict[int, list[tuple[str, Side]]] = {}
    for name in sorted(shapes):
        width_in, width_out = shapes[name]
        found.setdefault(width_in, []).append((name, "A"))
        found.setdefault(width_out, []).append((name, "B"))
    return {width: tuple(found[width]) for width in sorted(found)}


def linear_sites(model: onnx.ModelProto) -> dict[str, Site]:
    """Every Linear module of a graph by its name in the pretrained model, such as `encoder.layer.0.output.dense`."""
    graph = _Graph(model)
    found: dict[str, Site] = {}
    for node in model.graph.node:
        if node.op_type != "MatMul" or (weight := graph.weight(node.input[1])) is None:
            continue
        output, bias = graph.biased(node.output[0])
        name = _module(weight.name, ".weight") or _module(bias, ".bias")
        if name is None:
            continue
        width_in, width_out = weight.dims
        before = found.get(name)
        if before is not None and before.weight != weight.name:
            raise ArtifactRefused(f"the graph has two modules named {name}")
        places = () if before is None else before.places
        place = Place(graph.activation(node.input[0]), output)
        found[name] = Site(width_in, width_out, weight.name, (*places, place))
    return found


def with_branches(model_bytes: bytes, names: Collection[str]) -> tuple[bytes, Layout]:
    """The graph with a branch at each named module.

    Its further inputs are `CHOSEN`, (rows, tokens, columns) bool, and `input_name(width)` for each width of the layout.

    Raises:
        ArtifactRefused: The graph has no module of such a name.
    """
    model = onnx.load_model_from_string(model_bytes)
    sites = linear_sites(model)
    if unknown := sorted(set(names) - sites.keys()):
        raise ArtifactRefused(f"the backbone has no Linear module named {unknown[0]}")
    slots = slots_of({name: (sites[name].width_in, sites[name].width_out) for name in names})
    graph = model.graph
    nodes = list(_unstack(graph, slots))
    branches = {place.writes: (name, place) for name in names for place in sites[name].places}
    for node in graph.node:
        nodes.append(node)
        for index, output in enumerate(node.output):
            if output in branches:
                node.output[index] = f"{output}/base"
                nodes += _branch(*branches[output])
    del graph.node[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(CHOSEN, TensorProto.BOOL, ["rows", "tokens", "columns"]))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "lora/nothing"))
    return model.SerializeToString(), Layout(frozenset(names), slots)


def _unstack(graph: onnx.GraphProto, slots: Mapping[int, tuple[tuple[str, Side], ...]]) -> Iterator[onnx.NodeProto]:
    """The inputs of the branches, and the nodes that take each matrix out of its stack; A is turned over."""
    for width, stacked in slots.items():
        name = input_name(width)
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(stacked), "columns", width]))
        for index, (site, side) in enumerate(stacked):
            at = f"lora/{width}/{index}"
            graph.initializer.append(numpy_helper.from_array(np.array(index, np.int64), at))
            matrix = f"lora/{site}/{side}"
            yield helper.make_node("Gather", [name, at], [f"{matrix}/rows" if side == "A" else matrix], axis=0)
            if side == "A":
                yield helper.make_node("Transpose", [f"{matrix}/rows"], [matrix], perm=[1, 0])


def _branch(site: str, place: Place) -> list[onnx.NodeProto]:
    """Nodes from the module's input to its output. Where, not Mul: a token never meets the numbers of other adapters.

    The branch joins after the bias: there the OpenVINO plugin computes texts of the backbone to the last bit as
    without.
    """
    at = f"lora/{place.writes}"
    return [
        helper.make_node("MatMul", [place.reads, f"lora/{site}/A"], [f"{at}/all"]),
        helper.make_node("Where", [CHOSEN, f"{at}/all", "lora/nothing"], [f"{at}/own"]),
        helper.make_node("MatMul", [f"{at}/own", f"lora/{site}/B"], [f"{at}/added"]),
        helper.make_node("Add", [f"{place.writes}/base", f"{at}/added"], [place.writes]),
    ]


class _Graph:
    """A graph with its edges, read through the nodes of a static quantisation."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.makers = {output: node for node in model.graph.node for output in node.output}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def weight(self, name: str) -> onnx.TensorProto | None:
        """The constant matrix behind a tensor, if there is one."""
        tensor = self.tensors.get(self.activation(name))
        return tensor if tensor is not None and len(tensor.dims) == 2 else None

    def activation(self, name: str) -> str:
        """The tensor that was quantised and brought back, if this is such a one, else itself."""
        for kind in ("DequantizeLinear", "QuantizeLinear"):
            maker = self.makers.get(name)
            if maker is not None and maker.op_type == kind:
                name = maker.input[0]
        return self.makers[name].input[0] if name.endswith(SMOOTHED) and name in self.makers else name

    def biased(self, product: str) -> tuple[str, str]:
        """The tensor after the module's bias was added to its product, and the bias's name; "" where it has none."""
        end = product
        for kind in ("QuantizeLinear", "DequantizeLinear"):
            users = self.users.get(end, [])
            if len(users) == 1 and users[0].op_type == kind:
                end = users[0].output[0]
        users = self.users.get(end, [])
        if len(users) == 1 and users[0].op_type == "Add":
            others = [self.activation(name) for name in users[0].input if name != end]
            if len(others) == 1 and others[0] in self.tensors and len(self.tensors[others[0]].dims) == 1:
                return users[0].output[0], others[0]
        return product, ""


def _module(name: str, ending: str) -> str | None:
    """The module a parameter belongs to."""
    stem = name.removeprefix(_PREFIX)
    return stem.removesuffix(ending) if stem.endswith(ending) else None
