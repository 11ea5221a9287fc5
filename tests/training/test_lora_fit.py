"""LoRA fits on a small random model: exact gradients in chunks and in processes, learning, and repeatability."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed
import transformers

from training import gradcache
from training.errors import FitFailed
from training.lora_batches import scored_part, steps_of
from training.lora_fit import fit_lora, schedule
from training.lora_model import LoraModel, faster_precision
from training.lora_settings import LoraSettings
from training.losses import supcon
from training.problem import LabelledProblem, PairProblem
from training.selection import Selector
from training.sentence import SentenceModule
from training.team import Team

WORDS, CLASSES, EACH = 90, 6, 14
SMALL = LoraSettings(
    steps=6, batch_size=32, rank=4, alpha=8, precision="fp32", learning_rate=5e-3, chunk_tokens=48, evaluations=2
)
ALONE = Team()


def small_module(seed: int = 0) -> SentenceModule:
    """BERT with two layers of 32 features, its weights drawn at random."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        attn_implementation="eager",
    )
    return SentenceModule(transformers.BertModel(config), "mean").eval()


def small_texts(seed: int = 1) -> tuple[list[list[int]], np.ndarray]:
    """Token ids of different lengths and labels: each label has a few words of its own among those of all."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), EACH)
    texts = []
    for label in labels:
        own = 5 + 6 * label + rng.integers(0, 6, size=rng.integers(2, 5))
        words = rng.permutation([*own, *rng.integers(45, WORDS, size=rng.integers(1, 6))])
        texts.append([2, *(int(word) for word in words), 3])
    return texts, labels.astype(np.int64)


def labelled() -> tuple[list[list[int]], LabelledProblem]:
    texts, labels = small_texts()
    vectors = LoraModel(small_module(), SMALL, torch.device("cpu")).vectors(texts, ALONE)
    rows = np.random.default_rng(2).permutation(len(texts))
    fit, select = np.sort(rows[:60]), np.sort(rows[60:])
    return texts, LabelledProblem(vectors, fit, labels[fit], select, labels[select])


def paired() -> tuple[list[list[int]], PairProblem]:
    """Two texts that share two words among words that only ever stand on one side."""
    rng = np.random.default_rng(5)
    sides: tuple[list[list[int]], list[list[int]]] = ([], [])
    for _ in range(200):
        shared = rng.integers(5, 45, size=2)
        for side, (low, high) in zip(sides, ((45, 67), (67, WORDS)), strict=True):
            words = rng.permutation([*shared, *rng.integers(low, high, size=rng.integers(2, 6))])
            side.append([2, *(int(word) for word in words), 3])
    texts = [*sides[0], *sides[1]]
    vectors = LoraModel(small_module(), SMALL, torch.device("cpu")).vectors(texts, ALONE)
    fit, select = np.arange(150), np.arange(150, 200)
    negatives = np.where(fit % 3 == 0, (fit + 7) % 150 + 200, -1)
    return texts, PairProblem(vectors, fit, fit + 200, negatives, select, select + 200)


def stirred(dropout: float = 0.0) -> LoraModel:
    """A model whose adapter does something."""
    model = LoraModel(small_module(), replace(SMALL, dropout=dropout), torch.device("cpu"))
    torch.manual_seed(7)
    model.set({name: torch.randn_like(tensor) * 0.2 for name, tensor in model.state().items()})
    return model


def gradients(model: LoraModel, texts: list[list[int]], labels: np.ndarray, held: int, team: Team) -> tuple[Any, ...]:
    """Loss and gradients in chunks, as plain values."""
    codes = torch.from_numpy(labels)
    parameters = list(model.parameters.values())
    with model.fitting():
        value = gradcache.backward(
            model.encode,
            texts,
            lambda vectors: supcon(vectors, codes, 0.1),
            parameters,
            dimension=model.dimension,
            chunk_tokens=40,
            held_tokens=held,
            seed=(0, 1),
            team=team,
        )
    return value, {name: parameter.grad.clone() for name, parameter in model.parameters.items()}


def quiet(_: dict[str, Any]) -> None:
    pass


def test_the_adapter_does_nothing_at_the_start_and_only_it_is_fitted() -> None:
    texts, _ = small_texts()
    module = small_module()
    with torch.inference_mode():
        plain = module.run(texts[:5])
    model = LoraModel(module, SMALL, torch.device("cpu"))
    np.testing.assert_array_equal(model.encode(texts[:5]).detach().numpy(), plain)
    assert len(model.parameters) == 2 * 2 * 6  # A and B in two layers: query, key, value, and three dense ones
    assert not any("pooler" in name for name in model.parameters)
    assert {name for name, p in module.named_parameters() if p.requires_grad} == {
        f"model.model.{name.removesuffix('.weight')}.default.weight" for name in model.parameters
    }


def test_named_targets_and_a_name_that_is_not_there() -> None:
    model = LoraModel(small_module(), replace(SMALL, targets=("query", "output.dense")), torch.device("cpu"))
    assert len(model.parameters) == 2 * 2 * 3
    with pytest.raises(FitFailed, match="no Linear module named q_lin"):
        LoraModel(small_module(), replace(SMALL, targets=("query", "q_lin")), torch.device("cpu"))


@pytest.mark.parametrize("held", [0, 1 << 20])
def test_the_gradient_in_chunks_is_that_of_the_whole_batch(held: int) -> None:
    texts, labels = small_texts()
    model = stirred()
    value, found = gradients(model, texts, labels, held, ALONE)
    for parameter in model.parameters.values():
        parameter.grad = None
    whole = supcon(model.encode(texts), torch.from_numpy(labels), 0.1)
    whole.backward()
    assert value == pytest.approx(whole.item(), rel=1e-6)
    for name, parameter in model.parameters.items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7)


def test_a_second_run_draws_the_dropout_of_the_first() -> None:
    texts, labels = small_texts()
    model = stirred(dropout=0.3)
    value, recomputed = gradients(model, texts, labels, 0, ALONE)
    again, held = gradients(model, texts, labels, 1 << 20, ALONE)
    without, _ = gradients(stirred(), texts, labels, 0, ALONE)
    assert value == again != without
    for name, gradient in recomputed.items():
        torch.testing.assert_close(held[name], gradient, rtol=0, atol=0)


@pytest.mark.parametrize(("make", "batch_size"), [(labelled, 32), (paired, 64)])
def test_a_fit_helps_rows_it_did_not_see(make: Callable[[], Any], batch_size: int) -> None:
    texts, problem = make()
    told: list[dict[str, Any]] = []
    settings = replace(
        SMALL, steps=40, batch_size=batch_size, evaluations=5, patience=9, learning_rate=3e-2, replay=0.0
    )
    fitted = fit_lora(small_module(), texts, problem, settings, told.append)
    report = fitted.report
    assert report["select_score"] > report["base_score"] + 0.05
    assert [line["step"] for line in told] == [0, 8, 16, 24, 32, 40]
    assert report["best_step"] in (8, 16, 24, 32, 40)
    model = LoraModel(small_module(), SMALL, torch.device("cpu"))
    model.set(fitted.tensors)
    found = model.vectors(texts, ALONE)
    np.testing.assert_allclose(found[: len(fitted.witness[0])], fitted.witness[1], atol=1e-6)
    assert Selector(problem).score(lambda base: found) == pytest.approx(report["select_score"], abs=1e-6)


def test_equal_settings_give_equal_weights_and_another_seed_others() -> None:
    texts, problem = labelled()
    settings = replace(SMALL, dropout=0.1, identity=0.5)
    one, two, other = (
        fit_lora(small_module(), texts, problem, replace(settings, seed=seed), quiet).tensors for seed in (3, 3, 4)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_without_selection_rows_the_last_average_is_kept() -> None:
    texts, problem = labelled()
    problem = replace(problem, select=problem.select[:0], select_labels=problem.select_labels[:0])
    fitted = fit_lora(small_module(), texts, problem, SMALL, quiet)
    assert (fitted.report["best_step"], fitted.report["select_score"], fitted.report["stopped"]) == (6, None, "steps")
    assert any(tensor.abs().max() > 0 for name, tensor in fitted.tensors.items() if "lora_B" in name)


def test_it_ends_when_scores_no_longer_rise_and_when_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, problem = labelled()
    settings = replace(SMALL, steps=8, evaluations=8, patience=2)
    monkeypatch.setattr(Selector, "score", lambda self, apply: 0.5)
    report = fit_lora(small_module(), texts, problem, settings, quiet).report
    assert (report["stopped"], report["best_step"], report["steps_run"]) == ("patience", 1, 3)
    monkeypatch.setattr("training.lora_fit.time.monotonic", iter(range(0, 10_000, 600)).__next__)
    report = fit_lora(small_module(), texts, problem, settings, quiet).report
    assert (report["stopped"], report["steps_run"]) == ("time", 2)


def test_a_loss_that_is_not_finite_ends_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, problem = labelled()
    monkeypatch.setattr("training.lora_fit.gradcache.backward", lambda *args, **rest: float("nan"))
    with pytest.raises(FitFailed, match="not finite at step 1"):
        fit_lora(small_module(), texts, problem, SMALL, quiet)


def test_identity_holds_vectors_to_the_base() -> None:
    texts, problem = labelled()

    def nearness(identity: float) -> float:
        fitted = fit_lora(small_module(), texts, problem, replace(SMALL, steps=20, identity=identity), quiet)
        return float((fitted.witness[1] * problem.vectors[: len(fitted.witness[1])]).sum(axis=1).mean())

    assert nearness(20.0) > nearness(0.0)


def test_a_text_of_several_rows_is_run_once() -> None:
    _, problem = paired()
    step = next(steps_of(problem, replace(SMALL, batch_size=150), torch.device("cpu")))
    given = problem.fit_negatives[problem.fit_negatives >= 0]
    used = np.concatenate([problem.fit_anchors, problem.fit_positives, given])
    assert step.texts.tolist() == sorted(set(used.tolist()))
    vectors = torch.from_numpy(problem.vectors[step.texts])
    assert float(step.loss(vectors)) > 0


def test_the_scored_part_is_a_part_and_names_every_text_it_needs() -> None:
    for _, problem in (labelled(), paired()):
        part, texts = scored_part(problem, 10, 0)
        blank = np.zeros_like(problem.vectors)
        blank[texts] = problem.vectors[texts]
        score = Selector(part).score(lambda base: base)
        assert Selector(replace(part, vectors=blank)).score(lambda base: base) == score
        assert len(texts) <= 30


def test_the_schedule_rises_and_falls_to_nothing() -> None:
    rates = [schedule(step, 50, 0.1) for step in range(1, 51)]
    assert int(np.argmax(rates)) == 4
    assert 0 < rates[0] < rates[1]
    assert 0 < rates[-1] < 0.01


def test_the_precision_is_one_of_two_and_leaves_no_gradient() -> None:
    model = stirred()
    assert faster_precision(model, small_texts()[0][:4]) in ("fp32", "bf16")
    assert all(parameter.grad is None for parameter in model.parameters.values())
    model.precision = "bf16"
    assert model.encode([[2, 50, 3]]).dtype == torch.float32


@pytest.mark.parametrize(
    "wrong",
    [{"rank": 0}, {"learning_rate": float("nan")}, {"precision": "int8"}, {"targets": ()}, {"batch_size": 1}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(FitFailed, match=next(iter(wrong))):
        LoraSettings(**wrong)


def test_two_processes_give_the_loss_and_the_gradient_of_one(tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    shared |= {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path)],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    texts, labels = small_texts()
    alone = _gathered(texts, labels, ALONE)
    for rank in range(2):
        found_here = safetensors.torch.load_file(tmp_path / f"{rank}.safetensors")
        assert found_here.keys() == alone.keys()
        for name, wanted in alone.items():
            torch.testing.assert_close(found_here[name], wanted, rtol=1e-4, atol=1e-6)


def _gathered(texts: list[list[int]], labels: np.ndarray, team: Team) -> dict[str, torch.Tensor]:
    """Losses, gradients and a whole short fit, with and without a second run, with dropout."""
    torch.set_num_threads(1)
    found = {}
    for held in (0, 1 << 20):
        value, by_name = gradients(stirred(dropout=0.2), texts, labels, held, team)
        found[f"{held}/loss"] = torch.tensor(value)
        found |= {f"{held}/{name}": gradient for name, gradient in by_name.items()}
    _, problem = labelled()
    fitted = fit_lora(small_module(), texts, problem, replace(SMALL, steps=3), quiet, team=team)
    found["score"] = torch.tensor(fitted.report["select_score"])
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    own = Team.of_environment(cpu=True)
    assert own.size == 2
    safetensors.torch.save_file(_gathered(*small_texts(), own), Path(sys.argv[1]) / f"{own.rank}.safetensors")
    torch.distributed.destroy_process_group()
