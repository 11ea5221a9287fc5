"""The choice of a provider: measured, honest about every candidate, and stopped by none that fails."""

import time

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from encoder.errors import EncoderError, NoProvider
from encoder.runtime import (
    BATCH_TOLERANCE,
    OUTPUT,
    HeadSession,
    Precision,
    Provider,
    Yardstick,
    candidates,
    choose,
    cores,
    open_session,
)
from encoder.runtime import openvino as plugin


def small_model(operator="Cast"):
    """Vectors (b, 2): the sum of ids and the sum of the mask, as floats; `Log` of 0 where it should not be finite."""
    one = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["a"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["attention_mask"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["a", "axis"], ["sa"]),
        helper.make_node("ReduceSum", ["b", "axis"], ["sb"]),
        helper.make_node("Concat", ["sa", "sb"], ["v"], axis=1),
        helper.make_node("Log" if operator == "Log" else "Identity", ["v"], ["sentence_embedding"]),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["b", 2])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=[one])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


BATCHES = [[[3, 4], [6, 6]], [[1, 1, 1]]]
EXPECTED = np.array([[7, 2], [12, 2], [3, 3]], np.float32)
YARD = Yardstick(BATCHES, EXPECTED)


def test_every_candidate_is_reported_and_one_is_chosen(open_encoder):
    encoder = open_encoder()
    assert [(m.provider, m.precision) for m in encoder.measurements] == candidates(int8=True)
    chosen = [m for m in encoder.measurements if m.chosen]
    assert len(chosen) == 1
    best, session = chosen[0].arrangement, encoder.session
    assert (chosen[0].provider, chosen[0].precision) == (session.provider, session.precision)
    assert (best.threads, best.streams, best.spinning) == (session.threads, session.streams, session.spinning)
    good = [m for m in encoder.measurements if m.error is None]
    assert best.texts_per_second >= 0.9 * max(m.texts_per_second for m in good) > 0
    assert all(m.min_cosine >= 0.9999 and m.arrangement in m.tried for m in good)
    assert encoder.self_check() >= 0.9999


def test_a_start_is_quick(open_encoder):
    """Processor time, because other work may share the machine; on two idle cores the wait is about half of it."""
    start = time.process_time()
    open_encoder()
    assert time.process_time() - start < 6.0


@pytest.mark.parametrize(("provider", "precision"), candidates(int8=True))
def test_each_provider_gives_the_vectors_of_the_reference(open_encoder, encoder, provider, precision):
    texts = ["one", "two words", "a text of a few more words than the others", "x " * 200]
    other = open_encoder(provider=provider, precision=precision)
    assert [(m.provider, m.precision) for m in other.measurements] == [(provider, precision)]
    wanted, found = encoder.encode(texts).vectors, other.encode(texts).vectors
    assert (wanted * found).sum(axis=1).min() > (0.97 if precision is Precision.INT8 else 0.9999)
    alone = np.concatenate([other.encode([text]).vectors for text in texts])
    together = other.run(other.tokenizer.encode(texts).ids)
    assert np.abs(together - alone).max() < other.batch_tolerance == BATCH_TOLERANCE[precision]


def test_what_is_not_here_or_unknown_is_named():
    with pytest.raises(NoProvider, match="'tpu' is not a known provider"):
        choose(small_model(), YARD, provider="tpu")
    with pytest.raises(NoProvider, match="'int4' is not a known precision"):
        choose(small_model(), YARD, precision="int4")
    with pytest.raises(NoProvider, match=r"cpu in precision bf16 is not on this machine, which has .*cpu/fp32"):
        choose(small_model(), YARD, provider="cpu", precision="bf16")
    with pytest.raises(NoProvider, match="cpu does not compute in bf16"):
        open_session(small_model(), "cpu", "bf16")
    if (Provider.CUDA, Precision.FP32) not in candidates():
        with pytest.raises(NoProvider, match="cuda"):
            open_session(small_model(), "cuda", "fp32")


def test_a_provider_that_fails_to_load_is_reported_and_another_serves(monkeypatch):
    broken = plugin.OpenVino()
    monkeypatch.setattr(broken, "_library", lambda: "/nonexistent/plugin.so")
    monkeypatch.setattr(plugin, "openvino", broken)
    session, measured = choose(small_model(), YARD)
    assert session.provider is Provider.CPU
    failed = [m for m in measured if m.provider is Provider.OPENVINO]
    assert failed
    assert all("openvino does not load" in m.error and not m.chosen and m.min_cosine is None for m in failed)
    with pytest.raises(NoProvider, match="openvino"):
        choose(small_model(), YARD, provider="openvino")


def test_without_the_plugin_it_is_no_candidate(monkeypatch):
    absent = plugin.OpenVino()
    monkeypatch.setattr(absent, "_library", lambda: None)
    monkeypatch.setattr(plugin, "openvino", absent)
    assert all(provider is not Provider.OPENVINO for provider, _ in candidates())
    with pytest.raises(NoProvider, match="not installed"):
        open_session(small_model(), "openvino", "fp32")


def test_deviating_vectors_put_a_provider_out():
    with pytest.raises(NoProvider, match="vectors deviate"):
        choose(small_model(), Yardstick(BATCHES, EXPECTED[::-1].copy()), provider="cpu")
    with pytest.raises(NoProvider, match="deviate"):
        choose(small_model(), Yardstick(BATCHES, EXPECTED[:2]), provider="cpu")


def test_values_that_are_not_finite_are_an_error():
    session = open_session(small_model("Log"), "cpu", "fp32")
    with pytest.raises(EncoderError, match="not finite"):
        session.run([[0, 0]])


def test_bytes_that_are_no_model_are_no_crash():
    with pytest.raises(NoProvider, match="does not load"):
        open_session(b"not a model", "cpu", "fp32")


def test_threads_are_set(open_encoder):
    assert open_session(small_model(), "cpu", "fp32").threads == cores()
    assert open_encoder(provider="cpu", threads=1).session.threads == 1
    alone = open_encoder(provider="cpu", threads=2, streams=1)
    assert (alone.session.threads, alone.session.streams) == (2, 1)
    assert [(a.threads, a.streams) for a in alone.measurements[-1].tried if not a.spinning] == [(2, 1)]


def test_a_head_takes_any_number_of_rows_on_any_number_of_threads():
    given, made = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in ("base", OUTPUT))
    turn = np.roll(np.eye(4, dtype=np.float32), 1, axis=1)
    node = helper.make_node("MatMul", ["base", "turn"], [OUTPUT])
    graph = helper.make_graph([node], "head", [given], [made], initializer=[numpy_helper.from_array(turn, "turn")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    base = np.random.default_rng(0).normal(size=(20_001, 4)).astype(np.float32)
    for threads in (1, 2):
        head = HeadSession(model, threads)
        for rows in (1, 8192, 20_001):
            np.testing.assert_array_equal(head.run(base[:rows]), np.roll(base[:rows], 1, axis=1))
