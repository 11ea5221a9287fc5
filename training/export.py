"""Import of a backbone: one ONNX graph with pooling and L2 normalisation inside, published only with proven parity."""

import importlib.metadata
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import transformers
from transformers.utils import logging as transformers_logging

from encoder.batch import arrange, plan_batches
from encoder.encoder import INT8_FILE, Encoder
from encoder.errors import EncoderError
from encoder.graph import check_graph
from encoder.manifest import INPUTS, BackboneManifest, FileEntry, Parity, PrecisionFacts, Store, sha256
from encoder.probes import Probes
from encoder.runtime import OUTPUT, Run, open_session
from encoder.tokens import Tokenizer, encodable
from registry.names import valid_backbone_name
from training.parity import parity_texts, probe_texts, prove
from training.precisions import calibration_batches, int8_holds, measure_precisions
from training.quantize import quantize
from training.retrieval_texts import retrieval_probe
from training.sentence import PackedModule, SentenceModule, load_module
from training.sources import ExportRefused, Source, open_source
from training.weight_names import name_weights

__all__ = ["ExportRefused", "import_backbone"]

OPSET = 20
_LIBRARIES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "tokenizers")

Progress = Callable[[str, float], None]
"""Called with the name of the step and the fraction of the whole import that is done."""


def import_backbone(
    source: str | None, store: Store, *, name: str | None = None, progress: Progress | None = None
) -> BackboneManifest:
    """Export a pretrained encoder to ONNX, prove it against torch, and publish it.

    Args:
        source: None for the packaged all-MiniLM-L6-v2, a sentence-transformers folder, or a hub id.
        store: Keeps bytes under their digest. The manifest is stored last: without it the rest means nothing.
        name: Name to serve it under; None derives one from the source.
        progress: Told of every step.

    Returns:
        The manifest, already stored.

    Raises:
        ExportRefused: The source cannot be exported faithfully, or parity is not met. Nothing is stored then.
        InvalidName: The name is not one a backbone may have.
    """
    report = progress or (lambda step, fraction: None)
    report("reading the source", 0.0)
    found = open_source(source)
    name = valid_backbone_name(name or found.name)
    tokenizer = Tokenizer.from_bytes(found.tokenizer, found.max_tokens)
    with quietly():
        report("loading the model", 0.05)
        _prove_tokens(found, tokenizer)
        module = load_module(found)
    try:
        with quietly():
            model, layout, parity = _export(module, tokenizer, report)
        report("recording probes", 0.8)
        session = open_session(model, "cpu", "fp32")
        probes, retrieval = record_probes(tokenizer, session.run), retrieval_probe()
        del session
        files = {"model.onnx": model, "tokenizer.json": found.tokenizer}
        files |= {"probes.json": probes.to_bytes(), "retrieval.json": retrieval.to_bytes()}
        report("making int8 weights", 0.82)
        int8 = quantize(model, calibration_batches(tokenizer))
        report("measuring precisions", 0.86)
        precisions = measure_precisions(tokenizer, model, int8, retrieval)
        if int8 is not None and int8_holds(precisions):
            check_graph(int8, inputs=INPUTS[layout], outputs={OUTPUT})
            files[INT8_FILE] = int8
        manifest = _manifest(found, name, files, parity, probes.vectors.shape[1], precisions, layout)
        # The last proof: the loader itself accepts exactly these bytes.
        blobs = {sha256(data): data for data in (*files.values(), manifest.to_bytes())}
        Encoder.open(manifest.digest, blobs.__getitem__, provider="cpu")
    except EncoderError as error:
        raise ExportRefused(f"the exported graph is refused: {error}") from error
    report("storing", 0.95)
    for data in (*files.values(), manifest.to_bytes()):
        store(data)
    report("done", 1.0)
    return manifest


def _prove_tokens(source: Source, tokenizer: Tokenizer) -> None:
    """The tokenizer that will serve must give the ids that the source's own library gives."""
    texts = [encodable(text) for text in parity_texts(tokenizer)]
    try:
        own = transformers.AutoTokenizer.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
        wanted = own(texts, truncation=True, max_length=source.max_tokens, padding=False)["input_ids"]
    except Exception as error:  # transformers raises many kinds
        raise ExportRefused(f"the tokenizer cannot be loaded: {type(error).__name__}: {error}") from error
    found = tokenizer.encode(texts, truncate=True).ids
    wrong = sum(one != other for one, other in zip(found, wanted, strict=True))
    if wrong:
        raise ExportRefused(
            f"tokenizer.json gives other tokens than the source's tokenizer for {wrong} of {len(texts)} texts"
        )


def _export(module: SentenceModule, tokenizer: Tokenizer, report: Progress) -> tuple[bytes, str, Parity]:
    """The graph, its layout and its parity: packed where the model allows it, which parity with torch shows."""
    forms: list[tuple[str, torch.nn.Module]] = [("padded", module)]
    if module.packable:
        forms.insert(0, ("packed", PackedModule(module).eval()))
    begin, share = 0.15, 0.65 / len(forms)
    for layout, form in forms:
        report("exporting to ONNX", begin)
        try:
            model = _exported(form, tokenizer, layout)
            check_graph(model, inputs=INPUTS[layout], outputs={OUTPUT})
            session = open_session(model, "cpu", "fp32")
            proving = partial(_proving, report, begin + share / 2, share / 2)
            return model, layout, prove(tokenizer, module.run, session.run, proving)
        except (ExportRefused, EncoderError):
            if layout == "padded":
                raise
        begin += share  # several texts cannot share a row of this model
    raise ExportRefused("torch exported nothing")


def _proving(report: Progress, begin: float, share: float, part: float) -> None:
    report("proving parity with torch", begin + share * part)


def _exported(form: torch.nn.Module, tokenizer: Tokenizer, layout: str) -> bytes:
    # A dimension of 0 or 1 in the sample would be fixed in the graph; this one has 3 rows of several tokens, 8 texts.
    tokens = tokenizer.encode(["a sample text", "a sample text of more words", "sample"], truncate=True).ids
    if layout == "packed":
        batch = arrange([*tokens * 2, tokens[0] * 12, tokens[1] * 8], packed=True)
        feed = batch.feed(packed=True)
        axes: dict[int, Any] = {0: torch.export.Dim("rows"), 1: torch.export.Dim("tokens")}
        dims = dict.fromkeys(feed, axes) | {"texts": {0: torch.export.Dim("texts")}}
    else:
        feed = arrange(tokens, packed=False).feed(packed=False)
        axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=tokenizer.max_tokens)}
        dims = dict.fromkeys(feed, axes)
    try:
        program = torch.onnx.export(
            form,
            tuple(torch.from_numpy(array) for array in feed.values()),
            dynamo=True,
            input_names=list(feed),
            output_names=[OUTPUT],
            dynamic_shapes=dims,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # the exporter raises many kinds
        raise ExportRefused(f"torch cannot export this model: {type(error).__name__}") from error
    if program is None:
        raise ExportRefused("torch exported nothing")
    proto = _stripped(program.model_proto)
    name_weights(proto, form)
    model: bytes = proto.SerializeToString(deterministic=True)
    return model


def _stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the notes of the exporter: they hold paths of this machine, and would change the digest."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


def record_probes(tokenizer: Tokenizer, run: Run) -> Probes:
    """The probe texts with the vectors that `run` gives for batches of their token ids."""
    texts = probe_texts(tokenizer)
    tokens = tokenizer.encode(texts)
    vectors: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(texts)
    for batch in plan_batches(tokens.counts, 2048):
        for index, vector in zip(batch, run([tokens.ids[row] for row in batch]), strict=True):
            vectors[index] = vector
    return Probes(tuple(texts), np.stack(vectors))


def _manifest(
    source: Source,
    name: str,
    files: dict[str, bytes],
    parity: Parity,
    dimension: int,
    precisions: dict[str, PrecisionFacts],
    layout: str,
) -> BackboneManifest:
    return BackboneManifest(
        name=name,
        source=source.described,
        weights_sha256=source.weights_sha256,
        dimension=dimension,
        pooling=source.pooling,
        max_tokens=source.max_tokens,
        opset=OPSET,
        outputs={OUTPUT: dimension},
        files={file: FileEntry.of(data) for file, data in files.items()},
        versions={library: importlib.metadata.version(library) for library in _LIBRARIES},
        parity=parity,
        prompts=source.prompts,
        precisions=precisions,
        layout=layout,
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings, log lines and progress bars of torch and transformers: none of them is for the reader."""
    control: Any = transformers_logging  # its functions carry no types
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    noisy = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in noisy]
    control.set_verbosity_error()
    control.disable_progress_bar()
    for logger in noisy:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            control.enable_progress_bar()
        for logger, before in zip(noisy, levels, strict=True):
            logger.setLevel(before)
