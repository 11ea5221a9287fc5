"""Masked-token prediction beside a LoRA fit: what is hidden, its gradient against a plain reference, and learning."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch

from training.errors import FitFailed
from training.lora_fit import fit_lora
from training.lora_masked import SHARE, MaskedTokens, MaskIds, hide, mask_ids
from training.lora_model import LoraModel

_SPEC = importlib.util.spec_from_file_location("lora_fits", Path(__file__).with_name("test_lora_fit.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
fits: Any = importlib.util.module_from_spec(_SPEC)
sys.modules["lora_fits"] = fits
_SPEC.loader.exec_module(fits)

IDS = MaskIds(4, frozenset({0, 1, 2, 3, 4}))
OTHERS = np.arange(5, fits.WORDS)


def objective(model: LoraModel, texts: list[list[int]], chunk_tokens: int = 48) -> MaskedTokens:
    return MaskedTokens(model, texts, IDS, chunk_tokens=chunk_tokens, seed=3, team=fits.ALONE)


def test_a_share_of_the_tokens_is_hidden_and_never_a_special_one() -> None:
    rng = np.random.default_rng(0)
    texts = [[2, *rng.integers(5, fits.WORDS, size=20).tolist(), 3] for _ in range(400)]
    before = [list(row) for row in texts]
    hidden, places = hide(texts, IDS, OTHERS, np.random.default_rng(1))
    assert texts == before
    asked = [(row, new, place) for row, new, part in zip(texts, hidden, places, strict=True) for place in part]
    assert all(len(part) == round(SHARE * 20) == len(set(part)) for part in places)
    assert all(0 < place < 21 for _, _, place in asked)
    for row, new, part in zip(texts, hidden, places, strict=True):
        assert all(row[place] == new[place] for place in range(22) if place not in part)
    masked = np.mean([new[place] == IDS.mask for _, new, place in asked])
    kept = np.mean([new[place] == row[place] for row, new, place in asked])
    assert masked == pytest.approx(0.8, abs=0.04)
    assert kept == pytest.approx(0.1, abs=0.03)


def test_a_text_of_special_tokens_alone_hides_nothing_and_a_short_one_hides_one() -> None:
    hidden, places = hide([[2, 3], [2, 7, 3]], IDS, OTHERS, np.random.default_rng(0))
    assert hidden[0] == [2, 3]
    assert [len(part) for part in places] == [0, 1]


@pytest.mark.parametrize("chunk_tokens", [16, 10_000])
def test_the_gradient_is_that_of_the_mean_cross_entropy(chunk_tokens: int) -> None:
    model, (texts, _) = fits.stirred(), fits.small_texts()
    masked = objective(model, texts, chunk_tokens)
    parameters = list(model.parameters.values())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    chosen = [5, 0, 9, 40]
    value = masked.add_gradient(chosen, 2, 0.5, parameters)
    found = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    # The same without chunks, text by text.
    hidden, places, answers = masked._drawn(chosen, 2)
    logits = [masked._logits(model.hidden([row])[0, part]) for row, part in zip(hidden, places, strict=True)]
    loss = torch.nn.functional.cross_entropy(torch.cat(logits), torch.cat(answers))
    wanted = torch.autograd.grad(loss, parameters)
    assert value == pytest.approx(float(loss.detach()), rel=1e-5)
    for got, gradient in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, 1 + 0.5 * gradient, rtol=1e-4, atol=1e-6)


def test_the_map_is_that_of_the_pretrained_model_whatever_the_adapter_is() -> None:
    texts, _ = fits.small_texts()
    fresh = LoraModel(fits.small_module(), fits.SMALL, torch.device("cpu"))
    stirred = fits.stirred()
    before = stirred.state()
    one, other = objective(fresh, texts), objective(stirred, texts)
    torch.testing.assert_close(one._map, other._map)
    assert one._scale == other._scale
    assert all(torch.equal(tensor, before[name]) for name, tensor in stirred.state().items())


def test_a_fit_predicts_masked_tokens_better_with_the_objective_and_is_repeatable() -> None:
    texts, problem = fits.labelled()
    settings = replace(fits.SMALL, steps=40, masked=1.0)
    first, second = (fit_lora(fits.small_module(), texts, problem, settings, fits.quiet, mask=IDS) for _ in range(2))
    losses = first.report["extra"]["masked_tokens"]
    assert losses["loss_last"] < losses["loss_first"]
    assert all(torch.equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items())
    without = fit_lora(fits.small_module(), texts, problem, replace(settings, masked=0.0), fits.quiet, mask=IDS)
    assert "extra" not in without.report
    assert any(not torch.equal(tensor, without.tensors[name]) for name, tensor in first.tensors.items())


def test_a_mask_token_is_found_or_missed_by_name() -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "word": 1}, "[UNK]"))
    with pytest.raises(FitFailed, match="no mask token"):
        mask_ids(tokenizer.to_str().encode())
    tokenizer.add_special_tokens(["[CLS]", "[MASK]"])
    found = mask_ids(tokenizer.to_str().encode())
    assert found == MaskIds(3, frozenset({2, 3}))
    model = LoraModel(fits.small_module(), fits.SMALL, torch.device("cpu"))
    with pytest.raises(FitFailed, match="no token that could be masked"):
        objective(model, [[2, 3]])
