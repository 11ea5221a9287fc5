"""A version as one ONNX file for use elsewhere: backbone and adapter merged, `input_ids` and `attention_mask` in,
`sentence_embedding` out, plain standard operators, no file beside it."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from encoder.adapters import Head
from encoder.batch import PADDED_INPUTS, TokenIds, plan_batches
from encoder.encoder import Encoder
from encoder.errors import ArtifactRefused
from encoder.graph import check_graph
from encoder.lora import Lora, Pair
from encoder.lora_graph import linear_sites
from encoder.manifest import Fetch, Parity, load_files
from encoder.probes import Probes
from encoder.runtime import OUTPUT, Run, Vectors, open_session
from encoder.tokens import Tokenizer

MAX_ABS_DIFFERENCE = 1e-4
MIN_COSINE = 0.99999
_BASE = "base_embedding"
_TOKEN_BUDGET = 1024


def export_version(encoder: Encoder, version: Head | Lora, fetch: Fetch) -> tuple[bytes, Parity]:
    """Merge a version with its backbone, and prove the file on the backbone's probe texts.

    Args:
        encoder: The version's backbone, in fp32.
        version: Its adapter.
        fetch: Gives the bytes with a digest.

    Returns:
        The file, and how near it came to the served vectors.

    Raises:
        ArtifactRefused: The adapter stands on another backbone, cannot be merged, or the file gives other vectors.
    """
    if version.manifest.backbone != encoder.digest:
        raise ArtifactRefused("the adapter stands on another backbone")
    own = encoder.manifest.files
    files = load_files({name: own[name] for name in ("model.onnx", "probes.json")}, fetch)
    model = onnx.load_model_from_string(files["model.onnx"])
    if encoder.session.packed:
        take_padded(model)
    served: Run
    if isinstance(version, Lora):
        lora = version
        fold(model, lora.pairs())

        def served(tokens: TokenIds) -> Vectors:
            return encoder.forward_adapted(tokens, [lora] * len(tokens))

    else:
        head = version
        entry = {"head.onnx": head.manifest.files["head.onnx"]}
        append(model, onnx.load_model_from_string(load_files(entry, fetch)["head.onnx"]))

        def served(tokens: TokenIds) -> Vectors:
            return head.apply(encoder.run(tokens))

    for name, value in _described(encoder, version).items():
        model.metadata_props.add(key=name, value=value)
    data: bytes = model.SerializeToString(deterministic=True)
    check_graph(data, inputs=PADDED_INPUTS, outputs={OUTPUT})
    return data, _prove(data, encoder.tokenizer, served, Probes.from_bytes(files["probes.json"]).texts)


def take_padded(model: onnx.ModelProto) -> None:
    """Make a graph of packed batches take `input_ids` and `attention_mask`, (b, t) int64, a text a row.

    Positions count along the row; a token belongs to its row where the mask is 1, and to nobody elsewhere.
    """
    graph = model.graph
    constants = {"zero": 0, "one": 1, "nobody": -1, "rows": [1]}
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), f"padded/{name}"))
    shape, height, width, column, place = (f"padded/{name}" for name in ("shape", "b", "t", "column", "place"))
    prelude = [
        helper.make_node("Shape", ["input_ids"], [shape]),
        helper.make_node("Gather", [shape, "padded/zero"], [height]),
        helper.make_node("Gather", [shape, "padded/one"], [width]),
        helper.make_node("Range", ["padded/zero", width, "padded/one"], [place]),
        helper.make_node("Expand", [place, shape], ["positions"]),
        helper.make_node("Range", ["padded/zero", height, "padded/one"], ["texts"]),
        helper.make_node("Unsqueeze", ["texts", "padded/rows"], [column]),
        helper.make_node("Equal", ["attention_mask", "padded/one"], ["padded/real"]),
        helper.make_node("Where", ["padded/real", column, "padded/nobody"], ["owners"]),
    ]
    nodes = list(graph.node)
    del graph.node[:], graph.input[:]
    graph.node.extend([*prelude, *nodes])
    for name in ("input_ids", "attention_mask"):
        graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["batch", "tokens"]))


def fold(model: onnx.ModelProto, pairs: Mapping[str, Pair]) -> None:
    """Add a LoRA adapter's products to the weights of the modules it changes: W becomes W + A.T @ B.

    Raises:
        ArtifactRefused: The graph has no such module of that shape, or its weight cannot be changed alone.
    """
    sites = linear_sites(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = [name for node in model.graph.node for name in node.input]
    for name, (a, b) in pairs.items():
        site = sites.get(name)
        if site is None or (site.width_in, site.width_out) != (a.shape[1], b.shape[1]):
            raise ArtifactRefused(f"the backbone has no Linear module {name} of the adapter's shape")
        weight = tensors[site.weight]
        if uses.count(site.weight) != len(site.places) or weight.data_type != onnx.TensorProto.FLOAT:
            raise ArtifactRefused(f"the weight of {name} is not its own or not float32: nothing can be folded in")
        merged = numpy_helper.to_array(weight) + a.T @ b
        weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(merged, dtype=np.float32), site.weight))


def append(model: onnx.ModelProto, head: onnx.ModelProto) -> None:
    """Put a head's graph behind the backbone's; its names get the prefix `head/`.

    Raises:
        ArtifactRefused: The graphs are of different operator sets, or the head holds graphs within nodes.
    """
    if [(o.domain, o.version) for o in model.opset_import] != [(o.domain, o.version) for o in head.opset_import]:
        raise ArtifactRefused("the head's graph is of another operator set than the backbone's")
    for node in model.graph.node:
        _rename(node, lambda name: _BASE if name == OUTPUT else name)

    def renamed(name: str) -> str:
        known = {"": "", "base": _BASE, OUTPUT: OUTPUT}
        return known.get(name, f"head/{name}")

    for node in head.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ArtifactRefused("the head's graph holds graphs within nodes")
        _rename(node, renamed)
        model.graph.node.append(node)
    for tensor in head.graph.initializer:
        tensor.name = renamed(tensor.name)
        model.graph.initializer.append(tensor)
    model.ir_version = max(model.ir_version, head.ir_version)


def _rename(node: onnx.NodeProto, renamed: Callable[[str], str]) -> None:
    for names in (node.input, node.output):
        for index, name in enumerate(names):
            names[index] = renamed(name)


def _described(encoder: Encoder, version: Head | Lora) -> dict[str, str]:
    """What a reader of the file may want to know, as its metadata."""
    manifest = encoder.manifest
    return {
        "driftline.backbone": encoder.digest,
        "driftline.version": version.digest,
        "driftline.kind": version.manifest.kind,
        "driftline.max_tokens": str(manifest.max_tokens),
        "driftline.tokenizer_sha256": manifest.files["tokenizer.json"].sha256,
    }


def _prove(data: bytes, tokenizer: Tokenizer, served: Run, texts: Sequence[str]) -> Parity:
    session = open_session(data, "cpu", "fp32")
    ids = tokenizer.encode(texts).ids
    difference, cosine = 0.0, 1.0
    for batch in plan_batches([len(row) for row in ids], _TOKEN_BUDGET):
        tokens = [ids[index] for index in batch]
        found, wanted = session.run(tokens), served(tokens)
        difference = max(difference, float(np.abs(found - wanted).max()))
        cosine = min(cosine, float((found * wanted).sum(axis=1).min()))
    # Written so that a NaN fails.
    if not (difference <= MAX_ABS_DIFFERENCE and cosine >= MIN_COSINE):
        raise ArtifactRefused(
            f"the merged file differs from the served vectors by {difference:.1e} (smallest cosine {cosine:.6f})"
        )
    return Parity(len(texts), difference, cosine)
