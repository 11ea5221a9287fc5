"""A version as one ONNX file: what any ONNX Runtime makes of it is what is served."""

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
from onnx import helper

from encoder.adapters import Head
from encoder.batch import arrange
from encoder.errors import ArtifactRefused
from encoder.lora import Lora
from encoder.manifest import FileEntry, HeadManifest, Parity, sha256
from encoder.standalone import append, export_version, fold
from training.head_export import export_head
from training.weights import HeadWeights

TEXTS = ["where is my card", "refund", "how do I top up by bank transfer when my account is new"]


@pytest.fixture(scope="module")
def own(open_encoder):
    return open_encoder(provider="cpu", precision="fp32")


def published_head(backbone):
    """(digest, blobs) of a head of random weights with a hidden layer."""
    draw = np.random.default_rng(2)

    def normal(*shape):
        return draw.normal(size=shape, scale=0.02).astype(np.float32)

    weights = HeadWeights(normal(384, 64), normal(384), normal(64, 384), normal(64))
    inputs = normal(8, 384)
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    files = {
        "head.onnx": export_head(weights),
        "probes.safetensors": safetensors.numpy.save({"inputs": inputs, "outputs": weights.apply(inputs)}),
    }
    manifest = HeadManifest(
        backbone=backbone,
        dimension=384,
        files={name: FileEntry.of(data) for name, data in files.items()},
        parity=Parity(8, 0.0, 1.0),
        recipe={},
        dataset={},
        metrics={},
        parent=None,
        job="job_1",
        versions={},
    )
    return manifest.digest, {sha256(data): data for data in (*files.values(), manifest.to_bytes())}


def bare_run(data, tokens):
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert [value.name for value in session.get_outputs()] == ["sentence_embedding"]
    return session.run(None, arrange(tokens, packed=False).feed(packed=False))[0]


@pytest.mark.parametrize("kind", ["head", "lora"])
def test_the_file_gives_the_served_vectors_without_this_project(own, blobs, make_lora, kind):
    feed = own.tokenizer.encode(TEXTS).ids
    if kind == "head":
        digest, held = published_head(own.digest)
        version = Head.open(digest, held.__getitem__)
        served = version.apply(own.session.run(feed))
    else:
        digest, held = make_lora.published(make_lora.pairs(3, 8, modules=("query", "intermediate.dense")))
        version = Lora.open(digest, held.__getitem__)
        served = own.forward_adapted(feed, [version] * len(TEXTS))
    data, parity = export_version(own, version, {**blobs.held, **held}.__getitem__)
    found = bare_run(data, feed)
    np.testing.assert_allclose(found, served, atol=1e-5)
    assert np.abs(found - own.session.run(feed)).max() > 1e-2
    assert parity.texts == 64
    assert parity.max_abs_difference < 1e-4
    metadata = {entry.key: entry.value for entry in onnx.load_model_from_string(data).metadata_props}
    assert metadata["driftline.version"] == digest
    assert metadata["driftline.max_tokens"] == "256"


def test_a_version_of_another_backbone_is_refused(own, blobs):
    digest, held = published_head("0" * 64)
    with pytest.raises(ArtifactRefused, match="another backbone"):
        export_version(own, Head.open(digest, held.__getitem__), blobs.fetch)


def test_a_merge_that_changes_vectors_is_refused(own, blobs, make_lora, monkeypatch):
    monkeypatch.setattr("encoder.standalone.fold", lambda model, pairs: None)
    digest, held = make_lora.published(make_lora.pairs(3, 8))
    with pytest.raises(ArtifactRefused, match="differs from the served vectors"):
        export_version(own, Lora.open(digest, held.__getitem__), {**blobs.held, **held}.__getitem__)


def test_what_cannot_be_merged_is_refused(blobs, make_lora):
    graph = blobs.file("model.onnx")
    wide = {"encoder.layer.0.attention.self.query": (np.ones((4, 384), np.float32), np.ones((4, 8), np.float32))}
    for pairs in (wide, {"encoder.layer.7.attention.self.query": wide["encoder.layer.0.attention.self.query"]}):
        with pytest.raises(ArtifactRefused, match="no Linear module"):
            fold(onnx.load_model_from_string(graph), pairs)
    shared = onnx.load_model_from_string(graph)
    shared.graph.node.append(
        helper.make_node("Identity", ["model.encoder.layer.0.attention.self.query.weight"], ["elsewhere"])
    )
    with pytest.raises(ArtifactRefused, match="not its own"):
        fold(shared, make_lora.pairs(1, 4))
    older = onnx.load_model_from_string(export_head(HeadWeights(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))))
    older.opset_import[0].version = 19
    with pytest.raises(ArtifactRefused, match="another operator set"):
        append(onnx.load_model_from_string(graph), older)
