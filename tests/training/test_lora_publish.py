"""A fitted adapter becomes a version's artifact when its vectors survive storing, reading back and the served graph."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from encoder.encoder import Encoder
from encoder.lora import Lora
from encoder.lora_manifest import LoraManifest
from encoder.manifest import sha256
from registry import backbones
from registry.home import Home
from training.lora_fit import FittedLora, cut_tokens, fit_lora
from training.lora_publish import publish_lora, write_folder
from training.lora_settings import LoraSettings
from training.parity import parity_texts
from training.peft_folder import LoraRefused
from training.problem import LabelledProblem
from training.sentence import load_module
from training.sources import open_source

TEXTS = [
    "my card is lost",
    "card stolen",
    "I lost my card",
    "exchange rate is wrong",
    "bad rate of exchange",
    "wrong rate",
]
LABELS = np.array([0, 0, 0, 1, 1, 1], dtype=np.int64)
SETTINGS = LoraSettings(rank=4, alpha=8, steps=3, learning_rate=5e-3, averaging=0.0, precision="fp32", rslora=True)


@pytest.fixture(scope="module")
def registry(exported_backbone):
    registry = Home.at(exported_backbone).registry()
    yield registry
    registry.close()


@pytest.fixture(scope="module")
def backbone(registry):
    with registry.reading() as session:
        return backbones.default(session).digest


@pytest.fixture(scope="module")
def source():
    return open_source(None)


@pytest.fixture(scope="module")
def fitted(source) -> FittedLora:
    tokens = cut_tokens(source, TEXTS, SETTINGS)
    none = np.array([], dtype=np.int64)
    problem = LabelledProblem(np.zeros((len(TEXTS), 384), np.float32), np.arange(len(TEXTS)), LABELS, none, none)
    return fit_lora(load_module(source), tokens, problem, SETTINGS, lambda message: None)


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    """Parity on 40 short texts instead of 304."""
    monkeypatch.setattr("training.parity.parity_texts", lambda tokenizer: parity_texts(tokenizer)[:40])


def published(fitted, source, registry, backbone, **more: Any) -> tuple[LoraManifest, dict[str, bytes]]:
    held: dict[str, bytes] = {}

    def store(data: bytes) -> str:
        held[sha256(data)] = data
        return sha256(data)

    manifest = publish_lora(fitted, source, backbone, registry.fetch, store, dataset={"name": "small"}, **more)
    return manifest, held


def test_the_served_graph_gives_the_vectors_of_the_fitted_model(registry, backbone, source, fitted):
    told: list[float] = []
    manifest, held = published(
        fitted,
        source,
        registry,
        backbone,
        job="job_1",
        metrics={"rows": 6},
        progress=lambda step, part: told.append(part),
    )
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert (manifest.rank, manifest.job, manifest.dataset) == (4, "job_1", {"name": "small"})
    assert len(manifest.recipe["modules"]) == 36
    assert manifest.recipe["settings"]["learning_rate"] == 5e-3
    assert manifest.metrics["fit"]["steps_run"] == 3
    assert manifest.metrics["rows"] == 6
    assert manifest.metrics["change"] > 1e-3
    assert manifest.parity.max_abs_difference < 1e-5
    encoder = Encoder.open(backbone, registry.fetch, provider="cpu", precision="fp32")
    lora = Lora.open(manifest.digest, held.__getitem__)
    tokens, wanted = fitted.witness
    found = encoder.forward_adapted(tokens, [lora] * len(tokens))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - encoder.run(tokens)).max() > 1e-3
    again, _ = published(fitted, source, registry, backbone, job="job_1", metrics={"rows": 6})
    assert again.digest == manifest.digest


def test_the_folder_it_writes_is_one_that_peft_reads(fitted, source, tmp_path):
    import peft
    import transformers

    from training.export import quietly

    write_folder(fitted, tmp_path)
    with quietly():
        model = transformers.AutoModel.from_pretrained(source.folder)
        adapted = peft.PeftModel.from_pretrained(model, tmp_path).eval()
    module = load_module(source)
    module.model = adapted
    np.testing.assert_allclose(module.run(fitted.witness[0]), fitted.witness[1], atol=1e-5)


def test_an_adapter_that_storing_has_changed_is_refused(registry, backbone, source, fitted):
    name = next(name for name in fitted.tensors if ".layer.3." in name and "lora_B" in name)
    lost = replace(fitted, tensors={**fitted.tensors, name: torch.zeros_like(fitted.tensors[name])})
    with pytest.raises(LoraRefused, match="other vectors than the fitted one"):
        published(lost, source, registry, backbone)


def test_a_graph_that_disagrees_is_refused(registry, backbone, source, fitted, monkeypatch):
    monkeypatch.setattr("training.peft_folder._scale", lambda config, module, rank: 1.0)
    with pytest.raises(LoraRefused, match="parity: over 40 texts the graph differs"):
        published(fitted, source, registry, backbone)


def test_an_adapter_that_learnt_nothing_is_refused(registry, backbone, source, fitted):
    module = load_module(source)
    tensors = {
        name: torch.zeros_like(tensor) if "lora_B" in name else tensor for name, tensor in fitted.tensors.items()
    }
    nothing = replace(fitted, tensors=tensors, witness=(fitted.witness[0], module.run(fitted.witness[0])))
    with pytest.raises(LoraRefused, match="would only repeat the backbone"):
        published(nothing, source, registry, backbone)


def test_a_backbone_of_other_weights_is_refused(registry, backbone, source, fitted):
    with pytest.raises(LoraRefused, match="which the backbone was not exported from"):
        published(fitted, replace(source, weights_sha256="0" * 64), registry, backbone)
