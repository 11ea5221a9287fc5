"""Graphs: every road by which an ONNX file can reach outside itself, or bring code, is closed."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from encoder.batch import PACKED_INPUTS
from encoder.errors import ArtifactRefused
from encoder.graph import check_graph


def value(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2])


def external(name="w"):
    tensor = numpy_helper.from_array(np.ones((2, 2), np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    return tensor


def model(nodes=None, initializers=(), *, opsets=(), functions=()):
    nodes = nodes or [helper.make_node("Identity", ["base"], ["out"])]
    graph = helper.make_graph(nodes, "g", [value("base")], [value("out")], initializer=list(initializers))
    opsets = [helper.make_opsetid("", 20), *opsets]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions))


def check(proto):
    check_graph(proto.SerializeToString(), inputs={"base"}, outputs={"out"})


def constant(**attributes):
    return [helper.make_node("Constant", [], ["c"], **attributes), helper.make_node("MatMul", ["base", "c"], ["out"])]


def subgraph(nodes, initializers=()):
    return helper.make_graph(nodes, "inner", [], [value("y")], initializer=list(initializers))


def conditional(inner):
    other = subgraph([helper.make_node("Identity", ["base"], ["y"])])
    test = helper.make_node("Constant", [], ["t"], value=numpy_helper.from_array(np.array(True)))
    return [test, helper.make_node("If", ["t"], ["out"], then_branch=inner, else_branch=other)]


def sparse(tensor):
    indices = numpy_helper.from_array(np.array([0], np.int64), "i")
    return helper.make_sparse_tensor(tensor, indices, [2, 2])


def test_a_plain_graph_passes(blobs):
    check(model())
    weight = numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")
    check(model([helper.make_node("MatMul", ["base", "w"], ["out"])], [weight]))
    check_graph(blobs.file("model.onnx"), inputs=PACKED_INPUTS, outputs={"sentence_embedding": 384})


def test_the_exported_graph_tells_nothing_of_the_machine_that_made_it(blobs):
    proto = onnx.load_model_from_string(blobs.file("model.onnx"))
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert b"site-packages" not in blobs.file("model.onnx")
    assert b"transformers" not in blobs.file("model.onnx")


def test_external_data_is_refused_wherever_it_hides():
    in_sparse_initializer = model()
    in_sparse_initializer.graph.sparse_initializer.append(sparse(external()))
    in_indices = model()
    tensor = sparse(numpy_helper.from_array(np.ones(1, np.float32), "v"))
    tensor.indices.CopyFrom(external("i"))
    in_indices.graph.sparse_initializer.append(tensor)
    half_marked = external()
    half_marked.data_location = TensorProto.DEFAULT
    nested = subgraph(
        conditional(subgraph([*constant(value=external())[:1], helper.make_node("Identity", ["c"], ["y"])]))
    )
    nested.node[-1].output[0] = "y"
    listed = helper.make_node("Identity", ["base"], ["out"])
    listed.attribute.add(name="many", type=onnx.AttributeProto.TENSORS).tensors.append(external())
    listed_sparse = helper.make_node("Identity", ["base"], ["out"])
    listed_sparse.attribute.add(name="many", type=onnx.AttributeProto.SPARSE_TENSORS).sparse_tensors.append(
        sparse(external())
    )
    hidden = {
        "initializer": model(initializers=[external()]),
        "sparse initializer": in_sparse_initializer,
        "sparse indices": in_indices,
        "entries without the mark": model(initializers=[half_marked]),
        "attribute": model(constant(value=external())),
        "sparse attribute": model(constant(sparse_value=sparse(external()))),
        "list attribute": model([listed]),
        "sparse list attribute": model([listed_sparse]),
        "subgraph initializer": model(
            conditional(subgraph([helper.make_node("Identity", ["w"], ["y"])], [external()]))
        ),
        "subgraph of a subgraph": model(conditional(nested)),
    }
    for proto in hidden.values():
        with pytest.raises(ArtifactRefused, match="outside the file"):
            check(proto)


def test_own_operators_are_refused():
    function = helper.make_function(
        "own",
        "F",
        ["x"],
        ["y"],
        [helper.make_node("Constant", [], ["y"], value=external())],
        [helper.make_opsetid("", 20)],
    )
    own = helper.make_opsetid("own", 1)
    used = model([helper.make_node("F", ["base"], ["out"], domain="own")])
    cases = {
        "functions": (model(functions=[function]), "own operator 'F'"),
        "domain": (model(opsets=[own]), "domain 'own'"),
        "undeclared domain": (used, r"own\.F"),
        "in a subgraph": (
            model(conditional(subgraph([helper.make_node("Gelu", ["base"], ["y"], domain="com.microsoft")]))),
            r"com\.microsoft\.Gelu",
        ),
        "compiled code": (
            model([helper.make_node("EPContext", ["base"], ["out"], domain="com.microsoft")]),
            "EPContext",
        ),
    }
    for proto, named in cases.values():
        with pytest.raises(ArtifactRefused, match=named):
            check(proto)


def test_training_information_is_refused():
    proto = model()
    proto.training_info.add()
    with pytest.raises(ArtifactRefused, match="training"):
        check(proto)


def test_names_must_be_the_agreed_ones():
    data = model().SerializeToString()
    with pytest.raises(ArtifactRefused, match="inputs are base; they must be x"):
        check_graph(data, inputs={"x"}, outputs={"out"})
    with pytest.raises(ArtifactRefused, match="outputs"):
        check_graph(data, inputs={"base"}, outputs={"out", "more"})


@pytest.mark.parametrize("data", [b"\xff" * 10, b"not a model", b""])
def test_what_is_no_model_is_refused(data):
    with pytest.raises(ArtifactRefused):
        check_graph(data, inputs={"base"}, outputs={"out"})


def test_too_large_a_graph_is_refused(monkeypatch):
    data = model().SerializeToString()
    monkeypatch.setattr("encoder.graph.MAX_NODES", 0)
    with pytest.raises(ArtifactRefused, match="nodes"):
        check_graph(data, inputs={"base"}, outputs={"out"})
    monkeypatch.setattr("encoder.graph.MAX_BYTES", 10)
    with pytest.raises(ArtifactRefused, match="bytes"):
        check_graph(data, inputs={"base"}, outputs={"out"})


def test_deep_nesting_does_not_crash():
    inner = subgraph([helper.make_node("Identity", ["base"], ["y"])])
    for _ in range(20):
        nodes = conditional(inner)
        nodes[-1].output[0] = "y"
        inner = subgraph(nodes)
    check(model(conditional(inner)))
