"""A backbone so small that its vectors can be worked out here, and adapter versions whose every answer is known.

An embedding table, a masked mean and unit length, under the tokenizer of a real backbone; heads with random weights.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import safetensors.numpy
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from encoder.manifest import BackboneManifest, FileEntry, HeadManifest, Parity
from encoder.probes import Probes
from encoder.tokens import Tokenizer
from monitoring.reference import Reference
from registry import backbones, versions
from registry.registry import Registry
from training.head_export import export_head
from training.weights import HeadWeights

Vectors = NDArray[np.float32]
WIDTH = 32
WORDS = 30_522
NAME = "tiny"


@dataclass(frozen=True, slots=True)
class Tiny:
    """The backbone: its digest, its table of one row a token (WORDS, WIDTH), and the tokenizer."""

    digest: str
    table: Vectors
    tokenizer: Tokenizer

    def base(self, texts: Sequence[str]) -> Vectors:
        """Base vectors (n, WIDTH), worked out with numpy alone."""
        return _unit(np.stack([self.table[ids].mean(axis=0) for ids in self.tokenizer.encode(list(texts)).ids]))


def add_backbone(giver: Registry, taker: Registry) -> Tiny:
    """Enter the backbone into a registry, with the tokenizer and the probe texts of another's default one.

    Raises:
        SystemExit: The other has none.
    """
    with giver.reading() as session:
        record = backbones.default(session)
    if record is None:
        raise SystemExit("no backbone is imported; run: driftline backbone import")
    manifest = BackboneManifest.from_bytes(giver.fetch(record.digest))
    tokens = giver.fetch(manifest.files["tokenizer.json"].sha256)
    texts = Probes.from_bytes(giver.fetch(manifest.files["probes.json"].sha256)).texts
    table = np.random.default_rng(0).standard_normal((WORDS, WIDTH)).astype(np.float32)
    tiny = Tiny("", table, Tokenizer.from_bytes(tokens, manifest.max_tokens))
    probes = Probes(texts, tiny.base(texts)).to_bytes()
    files = {"model.onnx": _graph(table), "tokenizer.json": tokens, "probes.json": probes}
    manifest = dataclasses.replace(
        manifest,
        name=NAME,
        layout="padded",
        dimension=WIDTH,
        outputs={"sentence_embedding": WIDTH},
        files={name: FileEntry.of(data) for name, data in files.items()},
    )
    for data in files.values():
        taker.store(data)
    digest = taker.store(manifest.to_bytes())
    with taker.writing() as session:
        backbones.add(session, manifest.to_dict(), digest)
    return dataclasses.replace(tiny, digest=digest)


def weights(seed: int) -> HeadWeights:
    """The head of a version: random, and far enough from any other's that vectors cannot be taken for each other."""
    chance = np.random.default_rng(seed)
    inner, outer = (chance.normal(0, 0.15, shape).astype(np.float32) for shape in ((16, WIDTH), (WIDTH, 16)))
    return HeadWeights(outer, np.zeros(WIDTH, np.float32), inner, np.zeros(16, np.float32))


def add_version(registry: Registry, tiny: Tiny, adapter: str, seed: int, reference: Sequence[str] = ()) -> int:
    """Publish the head of a seed as the adapter's next version, with a reference of these texts; its number."""
    head = weights(seed)
    base = tiny.base([f"probe {number}" for number in range(16)])
    probes = safetensors.numpy.save({"inputs": base, "outputs": head.apply(base)})
    files = {"head.onnx": export_head(head), "probes.safetensors": probes}
    manifest = HeadManifest(
        backbone=tiny.digest,
        dimension=WIDTH,
        files={name: FileEntry.of(data) for name, data in files.items()},
        parity=Parity(len(base), 0.0, 1.0),
        recipe={},
        dataset={"name": "none", "revision": 1, "digest": "0" * 64},
        metrics={},
        parent=None,
        job=f"{adapter}-{seed}",
        versions={},
    )
    digest = [registry.store(data) for data in (*files.values(), manifest.to_bytes())][-1]
    picture = registry.store(_reference(head.apply(tiny.base(reference))).to_bytes()) if reference else None
    with registry.writing() as session:
        versions.ensure_adapter(session, adapter, tiny.digest)
        return versions.publish(
            session, adapter=adapter, digest=digest, kind="head", backbone=tiny.digest, reference=picture,
            parent=None, job_id=None, dataset="none@1", metrics={}, verdict=None, rejected=False,
        ).number  # fmt: skip


def _reference(vectors: Vectors) -> Reference:
    fit, calibration, replay = np.split(vectors, [len(vectors) * 4 // 10, len(vectors) * 8 // 10])
    ids = [str(row) for row in range(len(fit))]
    return Reference.build(fit=fit, fit_ids=ids, fit_labels=None, calibration=calibration, replay=replay)


def _unit(vectors: Vectors) -> Vectors:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _graph(table: Vectors) -> bytes:
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "second"], ["sum"], keepdims=0),
        helper.make_node("ReduceL2", ["sum", "second"], ["length"], keepdims=1),
        helper.make_node("Div", ["sum", "length"], ["sentence_embedding"]),
    ]
    constants = {"table": table, "last": np.array([2], np.int64), "second": np.array([1], np.int64)}
    shape: list[str | int | None] = ["batch", "tokens"]
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", WIDTH])],
        initializer=[numpy_helper.from_array(array, name=name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data
