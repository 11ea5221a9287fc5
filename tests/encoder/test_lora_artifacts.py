"""LoRA artifacts: read whole and strictly, refused when anything is not what their manifest names."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy

from encoder.errors import ArtifactRefused
from encoder.lora import Lora, pairs_of, weights_bytes
from encoder.lora_manifest import LoraManifest
from encoder.manifest import HeadManifest, sha256
from encoder.probes import Probes

SITE = "encoder.layer.0.attention.self.query"
A = np.ones((4, 384), np.float32)
B = np.full((4, 384), 0.5, np.float32)


def broken(value):
    bad = A.copy()
    bad[3, 7] = value
    return bad


def tensors(**arrays):
    return safetensors.numpy.save({name.replace("__", "."): array for name, array in arrays.items()})


def test_an_adapter_is_what_was_stored(make_lora):
    pairs = make_lora.pairs(1, 8, modules=("query", "intermediate.dense"), layers=(0, 2))
    digest, held = make_lora.published(pairs)
    lora = Lora.open(digest, held.__getitem__)
    assert (lora.digest, lora.rank, lora.manifest.digest) == (digest, 8, digest)
    assert lora.nbytes == sum(a.nbytes + b.nbytes for a, b in pairs.values())
    assert lora.pairs().keys() == pairs.keys()
    for name, (a, b) in lora.pairs().items():
        assert (a == pairs[name][0]).all()
        assert (b == pairs[name][1]).all()
    assert lora.shapes["encoder.layer.0.intermediate.dense"] == (384, 1536)
    with pytest.raises(ValueError, match="read-only"):
        lora.stacks[384][0] = 0


def test_a_manifest_survives_the_way_and_is_no_head(make_lora):
    digest, held = make_lora.published(make_lora.pairs(1, 4))
    manifest = LoraManifest.from_bytes(held[digest])
    assert LoraManifest.from_bytes(manifest.to_bytes()) == manifest
    assert json.loads(held[digest])["kind"] == "lora"
    with pytest.raises(ArtifactRefused, match="head manifest"):
        HeadManifest.from_bytes(held[digest])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"rank": 0}, "rank must be from 1 to 256"),
        ({"rank": 257}, "rank must be from 1 to 256"),
        ({"rank": "8"}, "rank has the wrong type"),
        ({"backbone": "main"}, "backbone is not a sha256"),
        ({"parent": "x"}, "parent is not a sha256"),
        ({"job": 3}, "job has the wrong type"),
        ({"kind": "head"}, "not a lora manifest"),
        ({"more": 1}, "fields missing or unknown: more"),
        ({"dimension": 0}, "dimension must be at least 1"),
        ({"files": {}}, "files must be exactly"),
    ],
)
def test_a_manifest_of_other_fields_is_refused(make_lora, changed, named):
    digest, held = make_lora.published(make_lora.pairs(1, 4))
    data = json.dumps({**json.loads(held[digest]), **changed}).encode()
    with pytest.raises(ArtifactRefused, match=named):
        Lora.open(sha256(data), {**held, sha256(data): data}.__getitem__)


def test_changed_bytes_are_refused(make_lora):
    digest, held = make_lora.published(make_lora.pairs(1, 4))
    for name, entry in LoraManifest.from_bytes(held[digest]).files.items():
        data = bytearray(held[entry.sha256])
        data[-1] ^= 1
        with pytest.raises(ArtifactRefused, match=name):
            Lora.open(digest, {**held, entry.sha256: bytes(data)}.__getitem__)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "cannot be read"),
        (b"\x00" * 64, "cannot be read"),
        (struct.pack("<Q", 1 << 40) + b"{}", "cannot be read"),
        (b"\x80\x04N." + b"x" * 40, "cannot be read"),
        (tensors(), "A and B of each module"),
        (tensors(**{f"{SITE}.A": A}), "A and B of each module"),
        (tensors(**{f"{SITE}.A": A, f"{SITE}.B": B, f"{SITE}.C": B}), "A and B of each module"),
        (tensors(A=A, B=B), "A and B of each module"),
        (tensors(**{f"{SITE}.A": A, "encoder.layer.1.B": B}), "A and B of each module"),
        (tensors(**{f"{SITE}.A": A.astype(np.float64), f"{SITE}.B": B}), "not a float32 matrix"),
        (tensors(**{f"{SITE}.A": A[0], f"{SITE}.B": B}), "not a float32 matrix"),
        (tensors(**{f"{SITE}.A": A[:, :0], f"{SITE}.B": B}), "not a float32 matrix"),
        (tensors(**{f"{SITE}.A": A[:3], f"{SITE}.B": B[:3]}), "has the rank 3, the manifest says 4"),
        (tensors(**{f"{SITE}.A": A, f"{SITE}.B": B[:3]}), "has the rank 3, the manifest says 4"),
        (tensors(**{f"{SITE}.A": broken(np.nan), f"{SITE}.B": B}), "not finite"),
        (tensors(**{f"{SITE}.A": broken(-np.inf), f"{SITE}.B": B}), "not finite"),
        (tensors(**{f"{SITE}.A": broken(1e30), f"{SITE}.B": B}), "beyond 65504"),
    ],
)
def test_weights_that_are_none_are_refused(make_lora, data, named):
    digest, held = make_lora.published({SITE: (A, B)}, weights=data)
    with pytest.raises(ArtifactRefused, match=named):
        Lora.open(digest, held.__getitem__)


def test_probes_of_another_width_are_refused(make_lora):
    digest, held = make_lora.published({SITE: (A, B)}, Probes(("text",), np.eye(1, 383, dtype=np.float32)))
    with pytest.raises(ArtifactRefused, match="another width"):
        Lora.open(digest, held.__getitem__)


def test_transposed_views_are_stored_in_order():
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = pairs_of(weights_bytes({SITE: (a.T, B)}), 4)[SITE][0]
    assert (found == a.T).all()
