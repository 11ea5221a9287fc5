"""Damaged and malicious artifacts: each is refused by the encoder's own error, without a crash, a hang or much memory.

What is loaded is loaded in a process of its own (fuzz_artifacts.py), so that a crash of the interpreter would be seen.
DRIFTLINE_EXAMPLES=20000 makes it a long run. Links, pipes and folders in an artifact's place are in the registry's
tests (test_artifacts.py), folders of PEFT in those of training (test_hostile_peft.py).
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from encoder.errors import ArtifactRefused
from encoder.graph import MAX_ELEMENTS, check_graph
from encoder.manifest import BackboneManifest
from encoder.tokens import Tokenizer

FUZZ = Path(__file__).with_name("fuzz_artifacts.py")
CASES = int(os.environ.get("DRIFTLINE_EXAMPLES", "400"))
_spec = importlib.util.spec_from_file_location("fuzz_artifacts", FUZZ)
assert _spec is not None
assert _spec.loader is not None
fuzz = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzz)


@pytest.mark.parametrize("kind", ["head", "probes", "lora", "tokenizer", "manifest"])
def test_damaged_artifacts_are_refused_or_whole(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, FUZZ, kind, "0", str(CASES)], capture_output=True, text=True, timeout=60 + CASES // 5
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    refused, loaded = (int(n) for n in re.findall(r"\d+", done.stdout.rpartition(":")[2]))
    assert refused + loaded == CASES
    assert refused > CASES // 2  # the damage is real


def test_a_whole_artifact_loads() -> None:
    fuzz.open_head(fuzz.head_files())
    fuzz.open_lora(fuzz.lora_files())
    fuzz.open_tokenizer(fuzz.small_tokenizer())
    BackboneManifest.from_bytes(fuzz.backbone_manifest())


def graph_of(nodes: list, numbers: dict[str, object] | None = None, **more: list) -> bytes:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in ("base", "out")]
    held = [numpy_helper.from_array(np.array(number), name) for name, number in (numbers or {}).items()]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], **more).SerializeToString()


def check(model: bytes) -> None:
    check_graph(model, inputs={"base"}, outputs={"out"})


def body() -> onnx.GraphProto:
    names = {"i": (TensorProto.INT64, []), "go": (TensorProto.BOOL, []), "x": (TensorProto.FLOAT, ["n", 8])}
    inside = [helper.make_tensor_value_info(name, *of) for name, of in names.items()]
    outside = [helper.make_tensor_value_info(f"{name}_", *names[name]) for name in ("go", "x")]
    nodes = [helper.make_node("Identity", [name], [f"{name}_"]) for name in ("go", "x")]
    return helper.make_graph(nodes, "body", inside, outside)


def shaped(operator: str, sizes: object, *before: str) -> bytes:
    """A graph that makes a tensor as large as an operator's constant says."""
    numbers = {
        "sizes": np.array(sizes, np.int64),
        "one": np.ones(1, np.float32),
        "start": np.int64(0),
        "by": np.int64(1),
    }
    made = helper.make_node(operator, [*before, "sizes", *(["by"] if operator == "Range" else [])], ["made"])
    nodes = [made, helper.make_node("Cast", ["made"], ["cast"], to=1), helper.make_node("ReduceSum", ["cast"], ["sum"])]
    return graph_of([*nodes, helper.make_node("Add", ["base", "sum"], ["out"])], numbers)


REPEATED = helper.make_node("Loop", ["times", "go", "base"], ["out"], body=body())


@pytest.mark.parametrize(
    "model",
    [
        graph_of([REPEATED], {"times": np.int64(2**62), "go": np.array(True)}),
        graph_of([helper.make_node("Scan", ["base"], ["out"], body=body(), num_scan_inputs=1)]),
        graph_of([helper.make_node("RandomNormal", [], ["out"], shape=[2**40])]),
        shaped("ConstantOfShape", [2**40]),
        shaped("Expand", [2**20, 2**20], "one"),
        shaped("Tile", [2**40], "one"),
        shaped("Range", 2**40, "start"),
        graph_of(
            [helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(np.array([2**40]))),
             helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Add", ["base", "c"], ["out"])]
        ),
    ],
    ids=["loop", "scan", "random", "made of a shape", "expanded", "tiled", "range", "by a constant"],
)  # fmt: skip
def test_what_would_run_without_end_or_fill_the_memory_is_refused(model: bytes) -> None:
    with pytest.raises(ArtifactRefused, match=r"repeat|numbers"):
        check(model)


def test_large_shapes_within_bounds_pass() -> None:
    check(shaped("ConstantOfShape", [2**14, 2**14]))
    assert MAX_ELEMENTS == 2**28
    check(shaped("Expand", [-1, 8], "one"))


def test_repetition_hides_in_no_subgraph() -> None:
    branch = helper.make_graph([REPEATED], "b", [], [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 8])])
    test = helper.make_node("If", ["go"], ["out"], then_branch=branch, else_branch=branch)
    with pytest.raises(ArtifactRefused, match="repeat"):
        check(graph_of([test], {"times": np.int64(2**62), "go": np.array(True)}))


def test_subgraphs_deeper_than_any_parser_goes_are_refused() -> None:
    def field(number: int, data: bytes) -> bytes:
        size, prefix = len(data), b""
        while size >= 128:
            prefix += bytes([size % 128 + 128])
            size //= 128
        return bytes([number << 3 | 2]) + prefix + bytes([size]) + data

    inner = b""
    for _ in range(2000):  # graph > node > attribute > graph
        inner = field(1, field(5, field(6, inner)))
    with pytest.raises(ArtifactRefused):
        check(field(7, inner))


@pytest.mark.parametrize("at", ["input", "output", "op_type", "domain", "initializer"])
def test_names_that_are_no_text_are_refused(at: str) -> None:
    names = {"input": "base", "output": "out", "op_type": "Identity", "domain": "", "initializer": "w"} | {at: "QQQQ"}
    node = helper.make_node(names["op_type"], [names["input"]], [names["output"]], domain=names["domain"])
    model = graph_of([node], {names["initializer"]: np.zeros(1, np.float32)})
    with pytest.raises(ArtifactRefused):
        check(model.replace(b"QQQQ", b"Q\xff\xfeQ"))


def test_a_head_may_have_arithmetic_only() -> None:
    files = fuzz.head_files()
    model = onnx.load_model_from_string(files["head.onnx"])
    model.graph.node[0].op_type = "NonZero"
    with pytest.raises(ArtifactRefused, match="NonZero"):
        fuzz.open_head({**files, "head.onnx": model.SerializeToString()})


MANIFEST = json.loads(fuzz.backbone_manifest())


@pytest.mark.parametrize("field", [*MANIFEST, "files.model.onnx.size", "parity.texts", "outputs.sentence_embedding"])
def test_every_field_of_a_manifest_holds_its_kind(field: str) -> None:
    parts = field.split(".", 1)
    if parts[0] == "files" and len(parts) > 1:
        parts = ["files", "model.onnx", "size"]
    wrong = [None, [], {"x": []}, True, 1.5e300, "\x00\ud800", -1]
    for value in wrong:
        document = json.loads(fuzz.backbone_manifest())
        at = document
        for part in parts[:-1]:
            at = at[part]
        kind = type(at[parts[-1]])
        at[parts[-1]] = value
        # A text may say anything, and a number below 0 is a number: what it would spoil, the digests and probes show.
        if isinstance(value, kind) and not isinstance(value, bool) and parts[-1] not in ("dimension", "max_tokens"):
            continue
        with pytest.raises(ArtifactRefused) as refused:
            BackboneManifest.from_bytes(fuzz.json_bytes(document))
        str(refused.value).encode()
    for change in (lambda d: d.pop(parts[0]), lambda d: d.update({f"{parts[0]}\ud800": 1})):
        document = json.loads(fuzz.backbone_manifest())
        change(document)
        if parts[0] in ("precisions", "layout") and parts[0] not in document:
            continue
        with pytest.raises(ArtifactRefused):
            BackboneManifest.from_bytes(fuzz.json_bytes(document))


@pytest.mark.parametrize(
    "change", [{"max_tokens": 2**63}, {"dimension": 2**40, "outputs": {"sentence_embedding": 2**40}}]
)
def test_sizes_of_a_manifest_are_bounded(change: dict) -> None:
    with pytest.raises(ArtifactRefused, match="up to"):
        BackboneManifest.from_bytes(fuzz.json_bytes(MANIFEST | change))


def test_a_tokenizer_that_fails_at_a_strange_text_or_panics_is_refused_at_load() -> None:
    document = json.loads(fuzz.small_tokenizer())
    document["model"]["vocab"].pop("[UNK]")
    with pytest.raises(ArtifactRefused, match=r"tokenizer\.json"):
        Tokenizer.from_bytes(fuzz.json_bytes(document), 16)
    document = json.loads(fuzz.small_tokenizer())
    document["post_processor"]["special_tokens"].clear()
    with pytest.raises(ArtifactRefused, match=r"tokenizer\.json"):
        Tokenizer.from_bytes(fuzz.json_bytes(document), 16)
