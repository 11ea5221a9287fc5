"""A tiny but real backbone (an embedding table, a masked mean, unit length) under the real tokenizer, and heads on it.

It embeds many thousand texts a second, so that files of several windows take no time.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

from encoder.adapters import Head
from encoder.bulk.model import Model
from encoder.encoder import Encoder
from encoder.manifest import BackboneManifest, FileEntry, HeadManifest, Parity
from encoder.probes import Probes
from encoder.tokens import Tokenizer
from registry import backbones, versions
from registry.home import Home
from registry.registry import Registry
from training.head_export import export_head
from training.weights import HeadWeights

Vectors = npt.NDArray[np.float32]
WIDTH = 16


@dataclass(frozen=True)
class Tiny:
    """A home with the tiny backbone, `desk@1` and `desk@2` (live) on it, and a LoRA version `inner@1` in name only."""

    home: Home
    backbone: str
    heads: tuple[str, str]

    def registry(self) -> Registry:
        return self.home.registry()


@pytest.fixture(scope="session")
def tiny(exported_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    real = Home.at(exported_backbone).registry()
    with real.reading() as session:
        record = backbones.default(session)
    assert record is not None
    manifest = BackboneManifest.from_bytes(real.fetch(record.digest))
    tokenizer_json = real.fetch(manifest.files["tokenizer.json"].sha256)
    texts = Probes.from_bytes(real.fetch(manifest.files["probes.json"].sha256)).texts
    real.close()
    table = np.random.default_rng(0).standard_normal((30522, WIDTH)).astype(np.float32)
    ids = Tokenizer.from_bytes(tokenizer_json, manifest.max_tokens).encode(texts).ids
    base = unit(np.stack([table[row].mean(axis=0) for row in ids]))
    files = {
        "model.onnx": backbone_graph(table),
        "tokenizer.json": tokenizer_json,
        "probes.json": Probes(texts, base).to_bytes(),
    }
    manifest = dataclasses.replace(
        manifest,
        name="tiny",
        layout="padded",
        dimension=WIDTH,
        outputs={"sentence_embedding": WIDTH},
        files={name: FileEntry.of(data) for name, data in files.items()},
    )
    home = Home.at(tmp_path_factory.mktemp("tiny") / "home")
    registry = home.registry()
    for data in (*files.values(), manifest.to_bytes()):
        registry.store(data)
    heads = tuple(store_head(registry, manifest.digest, base, seed) for seed in (1, 2))
    with registry.writing() as session:
        backbones.add(session, manifest.to_dict(), manifest.digest)
        for digest in heads:
            enter(session, "desk", "head", manifest.digest, digest)
        versions.promote(session, "desk", 2, by="test")
        enter(session, "inner", "lora", manifest.digest, manifest.digest)
    registry.close()
    return Tiny(home, manifest.digest, (heads[0], heads[1]))


@pytest.fixture(scope="session")
def open_tiny(tiny: Tiny) -> Iterator[Callable[..., Model]]:
    """Models on the tiny backbone: `version` 1 or 2 of the head, or none."""
    registry = tiny.registry()
    encoder = Encoder.open(tiny.backbone, registry.fetch, provider="cpu")

    def opened(version: int | None = None) -> Model:
        if version is None:
            return Model("tiny", encoder)
        return Model(f"desk@{version}", encoder, head=Head.open(tiny.heads[version - 1], registry.fetch))

    yield opened
    registry.close()


@pytest.fixture
def own_tiny(tiny: Tiny, tmp_path: Path) -> Home:
    """A copy of the tiny home for one test."""
    shutil.copytree(tiny.home.data_dir, tmp_path / "home")
    return Home.at(tmp_path / "home")


def unit(vectors: Vectors) -> Vectors:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def backbone_graph(table: Vectors) -> bytes:
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
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", WIDTH])],
        initializer=[numpy_helper.from_array(array, name=name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def store_head(registry: Registry, backbone: str, base: Vectors, seed: int) -> str:
    chance = np.random.default_rng(seed)
    weights = HeadWeights(
        chance.normal(0, 0.1, (WIDTH, 8)).astype(np.float32),
        np.zeros(WIDTH, np.float32),
        chance.normal(0, 0.1, (8, WIDTH)).astype(np.float32),
        np.zeros(8, np.float32),
    )
    probes = safetensors.numpy.save({"inputs": base, "outputs": weights.apply(base)})
    files = {"head.onnx": export_head(weights), "probes.safetensors": probes}
    manifest = HeadManifest(
        backbone=backbone,
        dimension=WIDTH,
        files={name: FileEntry.of(data) for name, data in files.items()},
        parity=Parity(len(base), 0.0, 1.0),
        recipe={},
        dataset={},
        metrics={},
        parent=None,
        job=f"test-{seed}",
        versions={},
    )
    return [registry.store(data) for data in (*files.values(), manifest.to_bytes())][-1]


def enter(session: Any, adapter: str, kind: str, backbone: str, digest: str) -> None:
    versions.ensure_adapter(session, adapter, backbone)
    versions.publish(
        session,
        adapter=adapter,
        digest=digest,
        kind=kind,
        backbone=backbone,
        reference=None,
        parent=None,
        job_id=None,
        dataset="test@1",
        metrics={},
        verdict=None,
        rejected=False,
    )


@pytest.fixture(scope="session")
def write_jsonl() -> Callable[..., Path]:
    """A JSONL file of texts and other fields."""

    def written(path: Path, texts: Sequence[Any], **columns: Sequence[Any]) -> Path:
        names = ("text", *columns)
        rows = zip(texts, *columns.values(), strict=True)
        path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
        return path

    return written


@pytest.fixture(scope="session")
def sentences() -> Callable[..., list[str]]:
    """So many different texts of four to twelve words."""
    words = ("card", "parcel", "flight", "invoice", "garden", "window", "kettle", "where", "is", "my", "lost", "the")

    def made(count: int, seed: int = 0) -> list[str]:
        chance = np.random.default_rng(seed)
        sizes, picks = chance.integers(3, 12, count), chance.integers(0, len(words), (count, 12))
        return [f"{i} " + " ".join(words[w] for w in picks[i, : sizes[i]]) for i in range(count)]

    return made
