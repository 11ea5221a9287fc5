"""Head adapters: applied as exported, and refused when anything differs from what their manifest names."""

import json

import numpy as np
import pytest
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

from encoder.adapters import Head
from encoder.errors import ArtifactRefused
from encoder.manifest import FileEntry, HeadManifest, Parity, sha256

D = 8
DRAW = np.random.default_rng(5)
WEIGHT = DRAW.normal(size=(D, D)).astype(np.float32)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def apply_by_hand(base):
    return unit(base + base @ WEIGHT)


def graph(*, normalised=True, output_width=D):
    weight = WEIGHT[:, :output_width] if output_width < D else WEIGHT
    nodes = [helper.make_node("MatMul", ["base", "w"], ["moved"])]
    nodes.append(helper.make_node("Add", ["base", "moved"], ["sum"]) if output_width == D else nodes.pop())
    if output_width != D:
        nodes = [helper.make_node("MatMul", ["base", "w"], ["sum"])]
    last = "LpNormalization" if normalised else "Identity"
    options = {"axis": 1, "p": 2} if normalised else {}
    nodes.append(helper.make_node(last, ["sum"], ["sentence_embedding"], **options))
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", None]) for n in ("base", "sentence_embedding")]
    proto = helper.make_graph(nodes, "head", info[:1], info[1:], initializer=[numpy_helper.from_array(weight, "w")])
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


INPUTS = unit(DRAW.normal(size=(16, D)))


def probes(inputs=INPUTS, outputs=None, **more):
    return safetensors.numpy.save(
        {"inputs": inputs, "outputs": apply_by_hand(INPUTS) if outputs is None else outputs, **more}
    )


def published(model=None, probe=None):
    """(digest, blobs) of a head whose manifest names exactly these files."""
    files = {"head.onnx": model or graph(), "probes.safetensors": probe or probes()}
    manifest = HeadManifest(
        backbone="0" * 64,
        dimension=D,
        files={name: FileEntry.of(data) for name, data in files.items()},
        parity=Parity(16, 0.0, 1.0),
        recipe={},
        dataset={},
        metrics={},
        parent=None,
        job="job_1",
        versions={},
    )
    return manifest.digest, {sha256(data): data for data in (*files.values(), manifest.to_bytes())}


def test_a_head_gives_what_it_was_made_to_give():
    digest, held = published()
    head = Head.open(digest, held.__getitem__)
    base = unit(DRAW.normal(size=(100, D)))
    np.testing.assert_allclose(head.apply(base), apply_by_hand(base), atol=1e-6)
    np.testing.assert_allclose(head.apply(np.asfortranarray(base)), apply_by_hand(base), atol=1e-6)
    assert head.apply(base[:0]).shape == (0, D)
    assert (head.digest, head.manifest.digest) == (digest, digest)


def test_vectors_of_another_width_are_refused():
    digest, held = published()
    head = Head.open(digest, held.__getitem__)
    for wrong in (np.zeros((1, D + 1), np.float32), np.zeros(D, np.float32)):
        with pytest.raises(ValueError, match="base vectors"):
            head.apply(wrong)


def test_changed_bytes_are_refused():
    digest, held = published()
    manifest = HeadManifest.from_bytes(held[digest])
    for name, entry in manifest.files.items():
        data = bytearray(held[entry.sha256])
        data[-1] ^= 1
        with pytest.raises(ArtifactRefused, match=name):
            Head.open(digest, {**held, entry.sha256: bytes(data)}.__getitem__)
    other = json.dumps({**manifest.to_dict(), "job": "job_2"}).encode()
    with pytest.raises(ArtifactRefused, match=digest):
        Head.open(digest, {**held, digest: other}.__getitem__)


@pytest.mark.parametrize(
    ("model", "probe", "named"),
    [
        (None, probes(outputs=np.roll(apply_by_hand(INPUTS), 1, axis=0)), "does not reproduce its probes"),
        (None, probes(outputs=apply_by_hand(INPUTS) + np.float32(2e-4)), "does not reproduce its probes"),
        (None, probes(more=INPUTS), "exactly inputs and outputs"),
        (None, probes(outputs=INPUTS[:3]), "fewer outputs"),
        (None, probes(INPUTS[:0], INPUTS[:0]), "float32 arrays"),
        (None, probes(INPUTS.astype(np.float64)), "float32 arrays"),
        (None, probes(np.full_like(INPUTS, np.nan)), "not finite"),
        (None, b"\x00" * 64, "cannot be read"),
        (graph(normalised=False), None, "unit length"),
        (graph(output_width=D - 1), None, "shape"),
        (b"not a model", None, "not an ONNX model|inputs"),
    ],
)
def test_what_is_consistent_but_wrong_is_refused(model, probe, named):
    digest, held = published(model, probe)
    with pytest.raises(ArtifactRefused, match=named):
        Head.open(digest, held.__getitem__)
