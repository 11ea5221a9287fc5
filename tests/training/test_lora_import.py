"""LoRA adapters of PEFT: imported when the served graph gives PEFT's vectors, refused when they are anything else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from encoder.encoder import Encoder
from encoder.lora import Lora
from encoder.manifest import BackboneManifest, sha256
from registry import backbones
from registry.home import Home
from training.export import quietly
from training.lora_import import LoraRefused, import_lora
from training.parity import parity_texts
from training.peft_folder import CONFIG, TENSORS, read_folder
from training.peft_reference import find_source
from training.sentence import padded
from training.sources import PACKAGED_SHA256, ExportRefused, open_source

SITE = "base_model.model.encoder.layer.0.attention.self.query"


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
def plain(peft_folder):
    return peft_folder(seed=1)


@pytest.fixture
def altered(plain, tmp_path):
    """A copy of a good folder with some settings or tensors changed."""

    def make(settings=None, tensors=None):
        folder = tmp_path / "altered"
        shutil.copytree(plain, folder)
        config = json.loads((folder / CONFIG).read_text()) | (settings or {})
        (folder / CONFIG).write_text(json.dumps(config))
        held = safetensors.torch.load_file(folder / TENSORS)
        for name, tensor in (tensors or {}).items():
            held.pop(name, None)
            if tensor is not None:
                held[name] = tensor
        safetensors.torch.save_file(held, folder / TENSORS)
        return folder

    return make


@pytest.fixture
def few_texts(monkeypatch):
    """Parity on 40 short texts instead of 304: one test has them all."""
    monkeypatch.setattr("training.parity.parity_texts", lambda tokenizer: parity_texts(tokenizer)[:40])


def imported(folder, registry, backbone, progress=None):
    """(manifest, blobs) of an import that stores nothing in the shared home."""
    held = {}

    def store(data):
        held[sha256(data)] = data
        return sha256(data)

    return import_lora(folder, backbone, registry.fetch, store, progress=progress), held


def peft_vectors(folder, texts, tokenizer):
    """What PEFT and torch give: mean pooling and length one, as sentence-transformers has it for this model."""
    import transformers
    from peft import PeftModel

    with quietly():
        base = transformers.AutoModel.from_pretrained(open_source(None).folder)
        model = PeftModel.from_pretrained(base, folder).eval()
    ids, mask = padded(tokenizer.encode(texts).ids)
    with torch.inference_mode():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).float()
        return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1)).numpy()


TEXTS = ["where is my card", "refund", "how do I top up by bank transfer when my account is new"]


def test_an_adapter_with_every_allowed_setting_gives_pefts_vectors(registry, backbone, peft_folder):
    folder = peft_folder(
        seed=2,
        r=16,
        lora_alpha=24,
        use_rslora=True,
        target_modules=["query", "key", "value", "dense"],
        rank_pattern={"layer.0.attention.self.query": 4},
        alpha_pattern={"output.dense": 3},
    )
    told = []
    manifest, held = imported(folder, registry, backbone, lambda step, part: told.append(part))
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert (manifest.rank, len(manifest.recipe["modules"]), manifest.recipe["ignored"]) == (16, 36, ["pooler.dense"])
    assert manifest.parity.texts == 304
    assert manifest.parity.max_abs_difference < 1e-5
    encoder = Encoder.open(backbone, registry.fetch, provider="cpu")
    lora = Lora.open(manifest.digest, held.__getitem__)
    feed = encoder.tokenizer.encode(TEXTS).ids
    found = encoder.forward_adapted(feed, [lora] * len(TEXTS))
    np.testing.assert_allclose(found, peft_vectors(folder, TEXTS, encoder.tokenizer), atol=1e-5)
    assert np.abs(found - encoder.session.run(feed)).max() > 1e-2


def test_an_adapter_that_was_really_trained_on_a_model_around_the_encoder(registry, backbone, few_texts, tmp_path):
    import transformers
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    folder = open_source(None).folder
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with quietly():
        around = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
        settings = LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"], layers_to_transform=[4, 5])
        model = get_peft_model(around, settings)
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
        texts = ["my card is lost", "card stolen", "exchange rate is wrong", "bad rate of exchange"]
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        losses = []
        for _ in range(8):
            loss = model(**batch, labels=torch.tensor([0, 0, 1, 1])).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        model.save_pretrained(tmp_path)
    assert losses[-1] < losses[0]
    names = safetensors.torch.load_file(tmp_path / TENSORS)
    assert all(name.startswith("base_model.model.bert.encoder.layer.") for name in names)
    manifest, held = imported(tmp_path, registry, backbone)
    assert {name.split(".attention")[0] for name in manifest.recipe["modules"]} == {
        "encoder.layer.4",
        "encoder.layer.5",
    }
    assert manifest.metrics["change"] > 1e-3
    assert Lora.open(manifest.digest, held.__getitem__).rank == 4


def test_an_adapter_that_does_nothing_is_refused(registry, backbone, peft_folder):
    with pytest.raises(LoraRefused, match="would only repeat the backbone"):
        imported(peft_folder(seed=3, std=0.0), registry, backbone)


def test_a_misread_scale_does_not_pass(registry, backbone, few_texts, plain, monkeypatch):
    monkeypatch.setattr("training.peft_folder._scale", lambda config, module, rank: 1.9)
    with pytest.raises(LoraRefused, match="parity: over 40 texts the graph differs"):
        imported(plain, registry, backbone)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"modules_to_save": ["classifier"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "'pissa' changes the pretrained weights"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is set"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is set"),
        ({"some_new_trick": {"on": True}}, "some_new_trick is set"),
        ({"lora_alpha": "lots"}, "lora_alpha is not a number"),
        ({"lora_alpha": None}, "lora_alpha is not a number"),
        ({"r": 4}, "the rank 4, its matrices have 8"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern must give names"),
        ({"alpha_pattern": {"query": float("inf")}}, "alpha_pattern is not a number"),
    ],
)
def test_what_is_more_than_plain_lora_is_refused(altered, settings, named):
    with pytest.raises(LoraRefused, match=named):
        read_folder(altered(settings))


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({f"{SITE}.lora_B.weight": None}, "only one of A and B"),
        ({f"{SITE}.lora_B.weight": torch.ones(384, 4)}, "no rank"),
        ({f"{SITE}.lora_A.weight": torch.full((8, 384), float("nan"))}, "not finite"),
        ({f"{SITE}.lora_A.weight": torch.ones(8, 384, dtype=torch.int32)}, "not a matrix of 16 or 32 bit floats"),
        ({f"{SITE}.lora_magnitude_vector": torch.ones(384)}, "not the A or B of a Linear module"),
        ({"base_model.model.embeddings.word_embeddings.lora_embedding_A": torch.ones(8, 4)}, "not the A or B"),
        ({"encoder.layer.0.attention.self.query.lora_A.weight": torch.ones(8, 384)}, "not the A or B"),
    ],
)
def test_tensors_of_other_kinds_are_refused(altered, tensors, named):
    with pytest.raises(LoraRefused, match=named):
        read_folder(altered(tensors=tensors))


def test_half_precision_is_read(altered):
    half = torch.full((8, 384), 0.5, dtype=torch.bfloat16)
    found = read_folder(altered(tensors={f"{SITE}.lora_A.weight": half}))
    name = SITE.removeprefix("base_model.model.")
    assert (found.tensors[name][0] == 0.5).all()
    assert found.scales[name] == 2.0


def test_pickles_are_never_opened(altered):
    folder = altered()
    (folder / TENSORS).unlink()
    with pytest.raises(LoraRefused, match=r"is missing$"):
        read_folder(folder)

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (folder / "ran",))

    torch.save(Bomb(), folder / "adapter_model.bin")
    with pytest.raises(LoraRefused, match=r"adapter_model\.bin is a pickle, which is never read"):
        read_folder(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("damage", ["no config", "no json", "no object", "no tensors"])
def test_damaged_folders_are_refused(altered, damage):
    folder = altered()
    match damage:
        case "no config":
            (folder / CONFIG).unlink()
        case "no json":
            (folder / CONFIG).write_text("[" * 100_000)
        case "no object":
            (folder / CONFIG).write_text("[]")
        case "no tensors":
            (folder / TENSORS).write_bytes(b"\x80\x04pickled")
    with pytest.raises(LoraRefused, match=rf"{CONFIG}|{TENSORS}"):
        read_folder(folder)


def test_modules_and_shapes_of_another_model_are_refused(altered):
    found = read_folder(altered())
    with pytest.raises(LoraRefused, match=r"no Linear module named encoder\.layer\.\d\.attention\.self\."):
        found.within({"transformer.layer.0.attention.q_lin": (384, 384)})
    assert found.within(dict.fromkeys(found.tensors, (384, 384))) == (found, "")
    with pytest.raises(LoraRefused, match="reads 384 and gives 384 features, the backbone's reads 768 and gives 768"):
        found.within(dict.fromkeys(found.tensors, (768, 768)))


def test_an_adapter_of_another_pretrained_model_is_refused(registry, backbone, tmp_path):
    manifest = BackboneManifest.from_bytes(registry.fetch(backbone))
    assert find_source(None, {}, manifest).weights_sha256 == PACKAGED_SHA256
    named = {"base_model_name_or_path": "sentence-transformers/all-MiniLM-L6-v2"}
    assert find_source(None, named, manifest).weights_sha256 == PACKAGED_SHA256
    with pytest.raises(LoraRefused, match=r"trained on BAAI/bge-small-en-v1\.5, the backbone is sentence-tr"):
        find_source(None, {"base_model_name_or_path": "BAAI/bge-small-en-v1.5"}, manifest)
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(LoraRefused, match="trained on other weights"):
        find_source(None, {"base_model_name_or_path": str(tmp_path)}, manifest)
    with pytest.raises(ExportRefused):
        find_source(str(tmp_path), {}, manifest)


def test_settings_and_tensors_must_agree(registry, backbone, altered):
    with pytest.raises(LoraRefused, match="do not name the same modules"):
        imported(altered({"target_modules": ["query", "value", "key"]}), registry, backbone)
