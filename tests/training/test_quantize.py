"""The int8 form: which products are rounded, by fixed scales, and that the rest of the graph is as it was."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from encoder.batch import PACKED_INPUTS
from encoder.graph import check_graph
from encoder.lora_graph import linear_sites
from encoder.manifest import BackboneManifest
from encoder.runtime import open_session
from registry import backbones
from registry.home import Home
from training.quantize import quantize


@pytest.fixture(scope="module")
def backbone(exported_backbone):
    registry = Home.at(exported_backbone).registry()
    with registry.reading() as session:
        found = backbones.default(session)
    manifest = BackboneManifest.from_bytes(registry.fetch(found.digest))
    files = {name: registry.fetch(entry.sha256) for name, entry in manifest.files.items()}
    registry.close()
    return manifest, files


def test_the_products_by_weights_are_int8_and_nothing_else_changed(backbone):
    _, files = backbone
    before, after = (onnx.load_model_from_string(files[name]) for name in ("model.onnx", "model.int8.onnx"))
    check_graph(files["model.int8.onnx"], inputs=PACKED_INPUTS, outputs={"sentence_embedding"})
    sites = linear_sites(before)
    assert len(sites) == 36
    assert {name: site.places for name, site in linear_sites(after).items()} == {n: s.places for n, s in sites.items()}
    kinds = {tensor.name: tensor.data_type for tensor in after.graph.initializer}
    assert {kinds[site.weight] for site in sites.values()} == {TensorProto.INT8}
    embeddings = [name for name in kinds if "embeddings" in name and name.endswith("weight")]
    assert embeddings
    assert {kinds[name] for name in embeddings} == {TensorProto.FLOAT}
    added = Counter(node.op_type for node in after.graph.node)
    added.subtract(node.op_type for node in before.graph.node)
    # 24 activations feed the 36 products: query, key and value read the same one.
    assert {kind: count for kind, count in added.items() if count} == {
        "Mul": 24,
        "QuantizeLinear": 24,
        "DequantizeLinear": 24 + 36,
    }


def test_the_import_keeps_the_file_whose_measurements_it_states(backbone):
    manifest, files = backbone
    assert {"model.int8.onnx", "retrieval.json"} <= files.keys()
    assert len(files["model.int8.onnx"]) < 0.7 * len(files["model.onnx"])
    assert "cpu" in manifest.precisions["int8"].providers


WIDE = 32


def small(*, shared: bool = False, outlier: float = 1.0) -> bytes:
    """Token vectors from a table, two products with a bias each, and the mean: (b, 32)."""
    draw = np.random.default_rng(0)
    table = draw.normal(size=(50, WIDE)).astype(np.float32)
    table[:, 3] *= outlier
    weights = {name: (draw.normal(size=(WIDE, WIDE)) / 6).astype(np.float32) for name in ("one.weight", "two.weight")}
    second = "one.weight" if shared else "two.weight"
    tensors = {"table": table, **weights, "one.bias": table[0], "two.bias": table[1], "axis": np.array([1], np.int64)}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("MatMul", ["words", "one.weight"], ["a"]),
        helper.make_node("Add", ["a", "one.bias"], ["b"]),
        helper.make_node("Tanh", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", second], ["d"]),
        helper.make_node("Add", ["d", "two.bias"], ["e"]),
        helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["m", "axis"], ["rate"], keepdims=1),
        helper.make_node("ReduceMean", ["e", "axis"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "rate"], ["sentence_embedding"]),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["b", WIDE])]
    constants = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def batches(count: int = 4):
    draw = np.random.default_rng(1)
    return [draw.integers(0, 50, (8, 6)).tolist() for _ in range(count)]


def error(model: bytes, int8: bytes) -> float:
    """Mean distance from the float32 vectors, in parts of their length."""
    exact, rounded = open_session(model, "cpu", "fp32"), open_session(int8, "cpu", "int8")
    found = []
    for batch in batches(8):
        wanted = exact.run(batch)
        found.append(np.linalg.norm(rounded.run(batch) - wanted, axis=1) / np.linalg.norm(wanted, axis=1))
    return float(np.mean(found))


def test_rounding_is_fine_and_a_large_channel_hardly_spoils_the_others():
    plain, steep = small(), small(outlier=100.0)
    assert error(plain, quantize(plain, batches())) < 0.02
    assert error(steep, quantize(steep, batches())) < 0.04


def test_the_mean_of_the_error_is_taken_out_of_the_bias():
    model = small(outlier=30.0)
    exact, rounded = open_session(model, "cpu", "fp32"), open_session(quantize(model, batches()), "cpu", "int8")
    shift = np.mean([rounded.run(batch) - exact.run(batch) for batch in batches()], axis=(0, 1))
    spread = np.std([rounded.run(batch) - exact.run(batch) for batch in batches()], axis=(0, 1))
    assert np.abs(shift).mean() < 0.5 * spread.mean()


def test_a_text_alone_has_the_vector_it_has_in_company():
    model = quantize(small(), batches())
    session = open_session(model, "cpu", "int8")
    texts = batches(1)[0]
    together = session.run(texts)
    alone = np.concatenate([session.run([text]) for text in texts])
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_weights_that_layers_share_stay_and_without_products_there_is_no_int8_form():
    assert quantize(small(shared=True), batches()) is None
    graph = onnx.load_model_from_string(small())
    kept = [node for node in graph.graph.node if node.op_type not in ("MatMul", "Add", "Tanh")]
    next(node for node in kept if node.op_type == "ReduceMean" and node.input[0] == "e").input[0] = "words"
    del graph.graph.node[:]
    graph.graph.node.extend(kept)
    assert quantize(graph.SerializeToString(), batches()) is None


def test_it_is_the_same_every_time():
    assert quantize(small(), batches()) == quantize(small(), batches())
