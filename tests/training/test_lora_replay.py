"""Replay in a LoRA fit: texts of random tokens, drawn alike each time, on which the adapter changes less."""

from dataclasses import replace

import numpy as np
import torch

from tests.training.test_lora_fit import SMALL, labelled, quiet, small_module
from training.lora_batches import steps_of
from training.lora_fit import fit_lora
from training.lora_model import LoraModel
from training.lora_replay import DRAWN, TEXTS, Replay, random_texts
from training.lora_settings import LoraSettings
from training.team import Team


def test_random_texts_look_like_the_fitted_ones_from_outside() -> None:
    tokens = [[2, 9, 8, 7, 3], [2, 5, 3], [2, 3]]
    texts = random_texts(tokens, 40, seed=1)
    assert len(texts) == TEXTS
    assert {len(text) for text in texts} == {3, 5}
    assert all(text[0] == 2 and text[-1] == 3 and max(text) < 40 for text in texts)
    assert texts == random_texts(tokens, 40, seed=1) != random_texts(tokens, 40, seed=2)


def test_a_step_is_joined_by_the_same_texts_again_and_costs_nothing_while_nothing_moved() -> None:
    texts, problem = labelled()
    model = LoraModel(small_module(), SMALL, torch.device("cpu"))
    replay = Replay(model, texts, weight=5.0, seed=0, team=Team())
    step = next(steps_of(problem, replace(SMALL, seed=0), torch.device("cpu")))
    own = [list(texts[text]) for text in step.texts]
    joined, loss = replay.join(step, own, 7)
    assert joined[: len(own)] == own
    assert len(joined) == len(own) + DRAWN
    assert joined == replay.join(step, own, 7)[0] != replay.join(step, own, 8)[0]
    vectors = torch.from_numpy(model.vectors(joined, Team()))
    torch.testing.assert_close(loss(vectors), step.loss(vectors[: len(own)]), atol=1e-4, rtol=0)
    moved = torch.nn.functional.normalize(vectors + 0.3 * torch.randn_like(vectors), dim=1)
    assert loss(moved) > step.loss(moved[: len(own)]) + 0.05


def test_a_fit_with_replay_leaves_other_texts_nearer_to_the_backbone() -> None:
    texts, problem = labelled()
    other = random_texts(texts, LoraModel(small_module(), SMALL, torch.device("cpu")).vocabulary, seed=77)
    base = LoraModel(small_module(), SMALL, torch.device("cpu")).vectors(other, Team())

    def moved(settings: LoraSettings) -> float:
        model = LoraModel(small_module(), SMALL, torch.device("cpu"))
        model.set(fit_lora(small_module(), texts, problem, settings, quiet).tensors)
        return float(np.linalg.norm(model.vectors(other, Team()) - base, axis=1).mean())

    settings = replace(SMALL, steps=30, learning_rate=1e-2)
    assert moved(replace(settings, replay=10.0)) < 0.7 * moved(replace(settings, replay=0.0))
