"""Number formats: what each keeps of float32, int8 only where it is asked for, and what keeps too little is refused."""

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from encoder.encoder import Encoder
from encoder.errors import ArtifactRefused, NoProvider
from encoder.retrieval import Retrieval
from encoder.runtime import BATCH_TOLERANCE, INT8_BAR, Int8, Precision, Yardstick, choose, open_session

TEXTS = [
    "my card has not arrived",
    "Wo ist meine Karte?",
    "where is my card 😀",
    "привет, мир",
    "I was charged twice for one purchase and nobody answers " * 4,
]
LONG = "a long letter about many things " * 60


@pytest.fixture(scope="module")
def int8(open_encoder):
    return open_encoder(provider="cpu", precision="int8")


@pytest.fixture(scope="module")
def probe(blobs):
    return Retrieval.from_bytes(blobs.file("retrieval.json"))


def test_int8_serves_where_it_is_asked_for_and_says_what_it_keeps(int8, encoder):
    assert int8.session.precision is Precision.INT8
    (measured,) = int8.measurements
    assert measured.chosen
    assert INT8_BAR.cosine <= measured.min_cosine < 0.9999
    assert measured.retrieval >= encoder.manifest.precisions["fp32"].retrieval - INT8_BAR.loss
    assert int8.least_cosine <= int8.self_check() < 0.9999
    wanted, found = encoder.encode(TEXTS).vectors, int8.encode(TEXTS).vectors
    assert 0.98 < (wanted * found).sum(axis=1).min() < 0.9999


def test_auto_leaves_int8_out_for_what_was_measured_at_import(encoder):
    left = [m for m in encoder.measurements if m.precision is Precision.INT8]
    assert [m.chosen for m in left] == [False]
    assert left[0].min_cosine is None
    facts = encoder.manifest.precisions["int8"]
    assert f"at import its smallest cosine was {facts.min_cosine:.4f}" in left[0].error


def test_the_import_measured_every_precision(encoder):
    facts = encoder.manifest.precisions
    assert {"fp32", "int8"} <= facts.keys()
    assert facts["fp32"].max_abs_difference < 1e-5
    assert facts["fp32"].min_cosine >= 0.9999
    assert 0.95 < facts["int8"].min_cosine < 0.9999
    assert abs(facts["int8"].retrieval - facts["fp32"].retrieval) <= INT8_BAR.loss
    if "bf16" in facts:
        assert facts["bf16"].min_cosine >= 0.9999
        assert abs(facts["bf16"].retrieval - facts["fp32"].retrieval) <= 0.1
    for precision, measured in facts.items():
        assert 0 < measured.batch_difference <= BATCH_TOLERANCE[Precision(precision)]
        assert measured.texts >= 128


def test_company_hardly_changes_an_int8_vector(int8):
    """Scales are fixed: a long neighbour must not move a short text's vector as scales of a batch would."""
    alone = np.concatenate([int8.encode([text]).vectors for text in TEXTS])
    ids = int8.tokenizer.encode([*TEXTS, LONG], truncate=True).ids
    assert np.abs(int8.run(ids)[:-1] - alone).max() <= int8.batch_tolerance
    assert np.abs(int8.run(ids[:-1]) - alone).max() <= int8.batch_tolerance


def test_an_adapter_on_int8_is_near_the_one_on_float32(int8, encoder, make_lora):
    """Its branches read the activations themselves, not those that were smoothed for int8."""
    lora = make_lora(5, modules=("query", "value", "intermediate.dense"))
    vectors = []
    for each in (encoder, int8):
        feed = each.tokenizer.encode(TEXTS).ids
        vectors.append(each.forward_adapted(feed, [lora] * len(TEXTS)))
    assert (vectors[0] * encoder.encode(TEXTS).vectors).sum(axis=1).max() < 0.97  # the adapter matters
    assert (vectors[0] * vectors[1]).sum(axis=1).min() > 0.98


def without(blobs, *names, **changes):
    value = {**blobs.manifest.to_dict(), **changes}
    value["files"] = {name: entry for name, entry in value["files"].items() if name not in names}
    return blobs.with_manifest(json.dumps(value).encode())


def test_a_backbone_without_int8_weights_says_so(blobs):
    plain = without(blobs, "model.int8.onnx")
    with pytest.raises(NoProvider, match="has no int8 weights"):
        Encoder.open(plain.digest, plain.fetch, provider="cpu", precision="int8")


def test_a_backbone_from_before_precisions_were_measured_is_loaded(blobs):
    value = without(blobs, "model.int8.onnx", "retrieval.json").manifest.to_dict()
    del value["precisions"]
    old = blobs.with_manifest(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
    encoder = Encoder.open(old.digest, old.fetch, provider="cpu")
    assert encoder.manifest.precisions == {}
    assert encoder.manifest.digest == old.digest
    assert encoder.measurements[0].retrieval is None
    assert encoder.batch_tolerance == BATCH_TOLERANCE[Precision.FP32]


def test_int8_weights_of_another_kind_are_refused(blobs):
    entry = blobs.manifest.files["tokenizer.json"]
    files = {**blobs.manifest.to_dict()["files"], "model.int8.onnx": {"sha256": entry.sha256, "size": entry.size}}
    wrong = blobs.with_manifest(json.dumps({**blobs.manifest.to_dict(), "files": files}).encode())
    with pytest.raises(ArtifactRefused, match="not an ONNX model"):
        Encoder.open(wrong.digest, wrong.fetch, provider="cpu", precision="int8")
    Encoder.open(wrong.digest, wrong.fetch, provider="cpu", precision="fp32")  # it needs none of it


def noisy(model: bytes, amount: float) -> bytes:
    """The backbone with noise on the weights of its products."""
    proto, draw = onnx.load_model_from_string(model), np.random.default_rng(1)
    for tensor in proto.graph.initializer:
        if tensor.name.endswith("dense.weight") and len(tensor.dims) == 2:
            weights = numpy_helper.to_array(tensor)
            moved = weights + amount * weights.std() * draw.normal(size=weights.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))
    return proto.SerializeToString()


@pytest.fixture(scope="module")
def yardstick(encoder, probe):
    feed = encoder.tokenizer.encode(TEXTS[:3]).ids
    score = encoder.manifest.precisions["fp32"].retrieval
    return Yardstick(
        [feed], encoder.session.run(feed), lambda session: probe.measure(encoder.tokenizer, session.run), score
    )


def test_vectors_below_the_bar_are_refused_even_where_int8_is_asked_for(blobs, yardstick):
    broken = noisy(blobs.file("model.onnx"), 1.0)
    with pytest.raises(NoProvider, match=r"cpu/int8: vectors deviate .* at least 0\.95 is required"):
        choose(b"", yardstick, "cpu", "int8", int8=Int8(lambda: broken))


def test_the_retrieval_probe_finds_a_broken_model_that_the_other_probes_pass(blobs, encoder, probe, yardstick):
    broken = noisy(blobs.file("model.onnx"), 0.35)
    session = open_session(broken, "cpu", "fp32")
    feed = yardstick.batches[0]
    score = probe.measure(encoder.tokenizer, session.run)
    assert score < yardstick.score - 1
    blind = Yardstick(yardstick.batches, session.run(feed) + np.float32(4e-4), yardstick.retrieval, yardstick.score)
    for model, precision, allowed in ((broken, "fp32", 0.1), (b"", "int8", 1.0)):
        with pytest.raises(NoProvider, match=rf"retrieval suffers: nDCG@10 {score:.2f}.*{allowed} may be lost"):
            choose(model, blind, "cpu", precision, int8=Int8(lambda: broken))


def test_a_start_is_not_drawn_out_by_candidates_that_promise_less(blobs, yardstick, monkeypatch):
    monkeypatch.setattr("encoder.runtime.choice._MEASURE_SECONDS", -1.0)
    model = blobs.file("model.onnx")
    session, measured = choose(model, yardstick, "cpu", int8=Int8(lambda: model))
    assert session.precision is Precision.INT8  # the first that holds
    assert measured[1].error.startswith("not tried")
    with pytest.raises(NoProvider, match=r"cpu/fp32: vectors deviate"):  # until one holds, all are tried
        choose(model, Yardstick(yardstick.batches, -yardstick.expected), "cpu", int8=Int8(lambda: model))


def test_where_int8_holds_the_bar_of_auto_it_may_win(blobs, yardstick):
    """Here the same float32 graph stands for an int8 form that loses nothing."""
    model = blobs.file("model.onnx")
    session, measured = choose(model, yardstick, "cpu", int8=Int8(lambda: model))
    assert [m.precision for m in measured] == [Precision.INT8, Precision.FP32]
    assert [m.error for m in measured] == [None, None]
    assert sum(m.chosen for m in measured) == 1
    assert session.precision in (Precision.INT8, Precision.FP32)
