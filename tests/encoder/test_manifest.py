"""Manifests: one canonical form, strict reading, and every file held to the digest it is named by."""

import dataclasses
import json

import numpy as np
import pytest

from encoder.errors import ArtifactRefused
from encoder.manifest import (
    BackboneManifest,
    FileEntry,
    HeadManifest,
    Parity,
    PrecisionFacts,
    load_files,
    load_manifest_bytes,
    sha256,
)
from encoder.probes import Probes

ENTRY = FileEntry.of(b"bytes")
BACKBONE = BackboneManifest(
    name="small",
    source="folder small",
    weights_sha256="0" * 64,
    dimension=4,
    pooling="mean",
    max_tokens=16,
    opset=20,
    outputs={"sentence_embedding": 4},
    files=dict.fromkeys(("model.onnx", "tokenizer.json", "probes.json"), ENTRY),
    versions={"torch": "2.13.0"},
    parity=Parity(300, 1e-7, 0.9999999),
    prompts={"query": "query: "},
)
FACTS = PrecisionFacts("cpu", 300, 0.03, 0.98, 0.002, 73.5)
MEASURED = dataclasses.replace(
    BACKBONE,
    files={**BACKBONE.files, "model.int8.onnx": ENTRY, "retrieval.json": ENTRY},
    precisions={"int8": FACTS},
)
HEAD = HeadManifest(
    backbone="1" * 64,
    dimension=4,
    files=dict.fromkeys(("head.onnx", "probes.safetensors"), ENTRY),
    parity=Parity(64, 0.0, 1.0),
    recipe={"loss": "auto"},
    dataset={"name": "d", "revision": 1, "digest": "2" * 64},
    metrics={},
    parent=None,
    job="job_1",
    versions={},
)


@pytest.mark.parametrize("manifest", [BACKBONE, MEASURED, HEAD])
def test_a_manifest_survives_its_bytes(manifest):
    data = manifest.to_bytes()
    again = type(manifest).from_bytes(data)
    assert again == manifest
    assert again.to_bytes() == data
    assert again.digest == sha256(data)
    assert json.loads(data) == manifest.to_dict()


def altered(manifest, **changes):
    return json.dumps({**manifest.to_dict(), **changes}).encode()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"extra": 1}, "extra"),
        ({"kind": "head"}, "backbone manifest"),
        ({"schema": 2}, "schema"),
        ({"dimension": "4"}, "dimension"),
        ({"dimension": True}, "dimension"),
        ({"dimension": 5}, "dimension"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"name": None}, "name"),
        ({"weights_sha256": "../../etc/passwd"}, "weights_sha256"),
        ({"prompts": {"query": 1}}, r"prompts\.query"),
        ({"parity": {"texts": 1}}, "parity"),
        ({"precisions": {"int8": {"texts": 1}}}, r"precisions\.int8"),
        ({"precisions": []}, "precisions"),
        ({"files": {**BACKBONE.to_dict()["files"], "model.int4.onnx": {"sha256": "0" * 64, "size": 1}}}, "files"),
        ({"files": {"model.onnx": {"sha256": "0" * 64, "size": 1}}}, "files"),
        ({"layout": "sparse"}, "layout"),
        ({"files": {**BACKBONE.to_dict()["files"], "model.onnx": {"sha256": "X", "size": 1}}}, r"model\.onnx"),
        ({"files": {**BACKBONE.to_dict()["files"], "model.onnx": {"sha256": "0" * 64}}}, r"model\.onnx"),
    ],
)
def test_a_wrong_field_is_named(changes, named):
    with pytest.raises(ArtifactRefused, match=named):
        BackboneManifest.from_bytes(altered(BACKBONE, **changes))


@pytest.mark.parametrize("field", sorted(BACKBONE.to_dict()))
def test_a_missing_field_is_refused(field):
    value = BACKBONE.to_dict()
    del value[field]
    with pytest.raises(ArtifactRefused, match=field if field not in ("kind", "schema") else "schema"):
        BackboneManifest.from_bytes(json.dumps(value).encode())


def test_a_manifest_from_before_precisions_and_layouts_keeps_its_digest():
    old = BACKBONE.to_dict()
    assert not {"precisions", "layout"} & old.keys()
    again = BackboneManifest.from_bytes(json.dumps(old).encode())
    assert (again.precisions, again.layout) == ({}, "padded")
    assert again.digest == BACKBONE.digest
    assert BackboneManifest.from_bytes(MEASURED.to_bytes()).precisions["int8"] == FACTS


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000])
def test_what_is_no_manifest_is_refused(data):
    for kind in (BackboneManifest, HeadManifest):
        with pytest.raises(ArtifactRefused):
            kind.from_bytes(data)


def test_a_head_manifest_names_digests():
    for field in ("backbone", "parent"):
        with pytest.raises(ArtifactRefused, match=field):
            HeadManifest.from_bytes(altered(HEAD, **{field: "nothing"}))


def test_bytes_are_held_to_their_digest_and_size():
    with pytest.raises(ArtifactRefused, match="manifest"):
        load_manifest_bytes("0" * 64, lambda digest: b"other")
    with pytest.raises(ArtifactRefused, match="sha256"):
        load_manifest_bytes("../x", lambda digest: b"other")
    files = {"model.onnx": ENTRY}
    assert load_files(files, lambda digest: b"bytes") == {"model.onnx": b"bytes"}
    with pytest.raises(ArtifactRefused, match=r"model\.onnx does not have the digest"):
        load_files(files, lambda digest: b"bytez")
    with pytest.raises(ArtifactRefused, match=r"model\.onnx has 4 bytes"):
        load_files(files, lambda digest: b"byte")


def test_probes_survive_their_bytes_exactly():
    vectors = np.eye(3, 4, dtype=np.float32)
    probes = Probes(("a", "世\x00", "c"), vectors)
    again = Probes.from_bytes(probes.to_bytes())
    assert again.texts == probes.texts
    assert again.vectors.dtype == np.float32
    assert again.vectors.tobytes() == vectors.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        {"texts": []},
        {"texts": ["a"]},
        {"texts": [1, 2]},
        {"vectors": "%"},
        {"vectors": 3},
        {"dimension": 0},
        {"dimension": 3},
    ],
)
def test_probes_that_do_not_fit_are_refused(change):
    value = json.loads(Probes(("a", "b"), np.eye(2, 4, dtype=np.float32)).to_bytes())
    with pytest.raises(ArtifactRefused, match=r"probes\.json"):
        Probes.from_bytes(json.dumps({**value, **change}).encode())


@pytest.mark.parametrize("component", [0.5, float("nan"), float("inf")])
def test_probes_that_are_not_unit_vectors_are_refused(component):
    vectors = np.eye(2, 4, dtype=np.float32)
    vectors[1, 1] = component
    with pytest.raises(ArtifactRefused, match="unit length"):
        Probes.from_bytes(Probes(("a", "b"), vectors).to_bytes())
