"""Damages artifacts of one kind by seed and loads each, for test_fuzz_artifacts.py and long runs by hand.

`python fuzz_artifacts.py KIND FIRST COUNT` prints how many were refused and loaded; it ends with 1 at the first that
raises anything but the encoder's own refusal, by a signal where the interpreter crashes, and within a bound of memory.
"""

import json
import random
import resource
import struct
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import safetensors.numpy
import tokenizers

from encoder.adapters import Head
from encoder.errors import ArtifactRefused
from encoder.lora import Lora, weights_bytes
from encoder.lora_manifest import LoraManifest
from encoder.manifest import BackboneManifest, FileEntry, HeadManifest, Parity, canonical, sha256
from encoder.probes import Probes
from encoder.tokens import Tokenizer

WIDTH = 8
DIGEST = "0" * 64
MEMORY = 6 * 1024**3
ODD: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1.5, -0.0, 1e308, "", "x",
    "\x00", "\ud800", "../../etc/passwd", "a" * 70_000,
    [], {}, [[]], {"": None}, DIGEST, DIGEST.upper(), [1] * 1000,
]  # fmt: skip


def head_files() -> dict[str, bytes]:
    """A head that turns vectors, and its probes."""
    helper = onnx.helper
    weights = np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
    given, made = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", WIDTH])
        for name in ("base", "sentence_embedding")
    )
    nodes = [
        helper.make_node("MatMul", ["base", "w"], ["moved"]),
        helper.make_node("LpNormalization", ["moved"], ["sentence_embedding"], axis=-1, p=2),
    ]
    graph = helper.make_graph(nodes, "head", [given], [made], [onnx.numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    inputs = np.eye(WIDTH, dtype=np.float32)
    probes = safetensors.numpy.save({"inputs": inputs, "outputs": inputs @ weights})
    return {"head.onnx": model.SerializeToString(), "probes.safetensors": probes}


def open_head(files: dict[str, bytes], manifest: bytes | None = None) -> object:
    """Load a head whose manifest names exactly these files, or this manifest."""
    if manifest is None:
        manifest = HeadManifest(
            backbone=DIGEST, dimension=WIDTH, files={name: FileEntry.of(data) for name, data in files.items()},
            parity=Parity(1, 0.0, 1.0), recipe={}, dataset={}, metrics={}, parent=None, job="j", versions={},
        ).to_bytes()  # fmt: skip
    held = {sha256(data): data for data in (*files.values(), manifest)}
    return Head.open(sha256(manifest), lambda digest: held.get(digest, b""))


def lora_files() -> dict[str, bytes]:
    """Weights of two modules, and a probe."""
    draw = np.random.default_rng(0)
    pair = (draw.normal(size=(2, WIDTH)).astype(np.float32), draw.normal(size=(2, WIDTH)).astype(np.float32))
    probes = Probes(("a text",), np.eye(1, WIDTH, dtype=np.float32))
    return {"lora.safetensors": weights_bytes({"a.b": pair, "c": pair}), "probes.json": probes.to_bytes()}


def open_lora(files: dict[str, bytes]) -> object:
    manifest = LoraManifest(
        backbone=DIGEST, dimension=WIDTH, rank=2, files={name: FileEntry.of(data) for name, data in files.items()},
        parity=Parity(1, 0.0, 1.0), recipe={}, dataset={}, metrics={}, parent=None, job=None, versions={},
    ).to_bytes()  # fmt: skip
    held = {sha256(data): data for data in (*files.values(), manifest)}
    return Lora.open(sha256(manifest), lambda digest: held.get(digest, b""))


def small_tokenizer() -> bytes:
    """A whole tokenizer.json with a part of every kind that a backbone's has."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij", "##a", "##b", "hello", "world"]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.decoder = tokenizers.decoders.WordPiece()
    made.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    return made.to_str().encode()


def open_tokenizer(data: bytes) -> None:
    tokenizer = Tokenizer.from_bytes(data, 16)
    tokenizer.encode(["hello world", "a b \u00e9 \U0001f600 ..."], truncate=True)


def backbone_manifest() -> bytes:
    return BackboneManifest(
        name="m", source="s", weights_sha256=DIGEST, dimension=WIDTH, pooling="mean", max_tokens=16, opset=20,
        outputs={"sentence_embedding": WIDTH}, files=dict.fromkeys(BackboneManifest.FILES, FileEntry(DIGEST, 1)),
        versions={"onnx": "1"}, parity=Parity(1, 0.0, 1.0), prompts={"query": "q: "},
    ).to_bytes()  # fmt: skip


def damaged(data: bytes, draw: random.Random) -> bytes:
    """The bytes cut, flipped, overwritten, repeated or filled up somewhere."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 5, 20))):
        at = draw.randrange(len(found) + 1)
        match draw.randrange(7):
            case 0 if at < len(found):
                found[at] ^= 1 << draw.randrange(8)
            case 1:
                del found[at:]
            case 2:
                del found[at : at + draw.randrange(1, 9)]
            case 3:
                found[at:at] = draw.randbytes(draw.randrange(1, 9))
            case 4:
                found[at : at + 4] = draw.choice((b"\xff" * 4, b"\x00" * 4, struct.pack("<I", 2**31 - 1)))
            case 5:
                found[at:at] = found[at : at + draw.randrange(1, 64)]
            case 6 if at < len(found):
                found[at] = draw.randrange(256)
    return bytes(found)


def tampered(value: Any, draw: random.Random) -> Any:
    """A JSON value with one part of it, at any depth, replaced, removed, renamed or doubled."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.15:
        return draw.choice(ODD)
    if isinstance(value, list):
        at = draw.randrange(len(value))
        changed = list(value)
        match draw.randrange(4):
            case 0:
                del changed[at]
            case 1:
                changed.append(changed[at])
            case _:
                changed[at] = tampered(changed[at], draw)
        return changed
    name = draw.choice(list(value))
    changed = dict(value)
    match draw.randrange(6):
        case 0:
            del changed[name]
        case 1:
            changed[draw.choice(("x", "", "kind", "\ud800", name + " "))] = changed.pop(name)
        case _:
            changed[name] = tampered(changed[name], draw)
    return changed


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def lying_header(data: bytes, draw: random.Random) -> bytes:
    """A safetensors file whose header says something else than what follows it."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    for _ in range(draw.choice((1, 2))):
        header = tampered(header, draw)
    told = json_bytes(header)
    length = draw.choice((len(told), len(told), len(told), len(told) + 1, 0, 2**63, 2**32))
    return struct.pack("<Q", length) + told + data[8 + size :]


def case(kind: str, draw: random.Random) -> Callable[[], object]:
    """What loads one damaged artifact of a kind."""
    if kind == "head":
        files = head_files()
        files["head.onnx"] = damaged(files["head.onnx"], draw)
        return lambda: open_head(files)
    if kind == "probes":
        files = head_files()
        files["probes.safetensors"] = draw.choice((damaged, lying_header))(files["probes.safetensors"], draw)
        return lambda: open_head(files)
    if kind == "lora":
        files = lora_files()
        if draw.random() < 0.3:
            files["probes.json"] = json_bytes(tampered(json.loads(files["probes.json"]), draw))
        else:
            files["lora.safetensors"] = draw.choice((damaged, lying_header))(files["lora.safetensors"], draw)
        return lambda: open_lora(files)
    if kind == "tokenizer":
        whole = small_tokenizer()
        data = damaged(whole, draw) if draw.random() < 0.2 else json_bytes(tampered(json.loads(whole), draw))
        return lambda: open_tokenizer(data)
    if kind == "manifest":
        if draw.random() < 0.5:
            data = json_bytes(tampered(json.loads(backbone_manifest()), draw))
            return lambda: BackboneManifest.from_bytes(data)
        files = head_files()
        entries = {name: {"sha256": sha256(held), "size": len(held)} for name, held in files.items()}
        plain = json.loads(canonical({
            "kind": "head", "schema": 1, "backbone": DIGEST, "dimension": WIDTH, "files": entries, "job": "j",
            "parity": {"texts": 1, "max_abs_difference": 0.0, "min_cosine": 1.0}, "recipe": {}, "dataset": {},
            "metrics": {}, "parent": None, "versions": {"onnx": "1"},
        }))  # fmt: skip
        changed = json_bytes(tampered(plain, draw))
        return lambda: open_head(files, changed)
    raise SystemExit(f"no such kind: {kind}")


def main() -> int:
    kind, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    refused = loaded = 0
    for seed in range(first, first + count):
        load = case(kind, random.Random(seed))
        try:
            load()
            loaded += 1
        except ArtifactRefused as error:
            str(error).encode()  # fit to be shown and logged
            refused += 1
        except BaseException as error:  # a panic of a Rust library is no Exception
            print(f"{kind} {seed}: {type(error).__mro__[:-2]}: {str(error)[:300]!r}", flush=True)
            raise
    print(f"{kind}: {refused} refused, {loaded} loaded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
