"""Fitting a LoRA adapter on a pretrained sentence model: the loop, what it keeps, and how it goes on after a kill."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.batch import TokenIds
from encoder.tokens import Tokenizer
from monitoring.quality import Scores
from training import checkpoints, gradcache, problem
from training.checkpoints import Checkpoint
from training.errors import FitFailed
from training.files import WorkFolder
from training.lora_batches import Step, rows_to_fit, rows_to_select, scored_part, steps_of, temperature_of
from training.lora_masked import MaskedTokens, MaskIds
from training.lora_model import LoraModel, settle_precision
from training.lora_replay import Replay
from training.lora_settings import LoraSettings
from training.problem import Problem
from training.selection import Selector
from training.sentence import SentenceModule
from training.shares import largest_good
from training.sources import Source
from training.team import Team

WITNESSES = 64

Progress = Callable[[dict[str, Any]], None]
Beat = Callable[[int, int], None]
"""Called with (steps done, step of the last checkpoint or 0)."""


@dataclass(frozen=True, eq=False)
class FittedLora:
    """The outcome of a fit.

    Attributes:
        config: The adapter's `adapter_config.json`.
        tensors: Its matrices by PEFT's names, float32.
        witness: Token ids of some fitted texts, and the vectors (n, d) float32 that the fitted model gave for them in
            full precision: what the adapter must still give once it was stored.
        settings: What it was fitted with.
        report: What happened, as plain JSON values.
        items: (m,) scores of the selection items of `scored_part` under what was fitted; empty without selection rows.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    witness: tuple[TokenIds, npt.NDArray[np.float32]]
    settings: LoraSettings
    report: dict[str, Any]
    items: Scores


@dataclass
class _Progress:
    """Where a fit stands: what a checkpoint holds besides the weights that are being fitted."""

    average: dict[str, Tensor]
    best: dict[str, Tensor]
    precision: str
    step: int = 0
    best_step: int = 0
    best_score: float = -1.0
    base_score: float | None = None
    seconds: float = 0.0
    curve: list[list[float]] = field(default_factory=list)


def cut_tokens(source: Source, texts: Sequence[str], settings: LoraSettings) -> list[list[int]]:
    """Token ids of texts as the fit reads them, cut to `max_tokens`.

    Raises:
        EmptyText: A text is empty.
    """
    limit = min(source.max_tokens, settings.max_tokens)
    return [list(row) for row in Tokenizer.from_bytes(source.tokenizer, limit).encode(texts, truncate=True).ids]


def fit_lora(
    module: SentenceModule,
    tokens: TokenIds,
    problem: Problem,
    settings: LoraSettings,
    progress: Progress,
    *,
    team: Team | None = None,
    folder: WorkFolder | None = None,
    beat: Beat | None = None,
    mask: MaskIds | None = None,
) -> FittedLora:
    """Fit an adapter and return its best weights.

    AdamW with a linear warm-up and a cosine schedule. What is scored and kept is a moving average of the weights.
    Where the problem has selection rows, the average with the best score is returned, scaled by the largest share that
    does as well, and the fit ends early when scores no longer rise; else the last average is.

    The same module, problem and settings give the same weights on one machine, whether the fit was killed in between
    or not, as long as neither the time budget nor a measured precision ("auto") decides; several processes give those
    of one, up to the order in which floats are added.

    Args:
        module: The pretrained model; it is changed.
        tokens: Token ids of the distinct texts, row i those of `problem.vectors[i]`.
        problem: Which texts play which part; labels or pairs.
        settings: How to fit.
        progress: Called by the first process at each score, with {step, steps, loss, score, best}.
        team: The processes that share the work; each calls this with the same arguments.
        folder: Where the checkpoint is kept, for all processes to read; None keeps none. A checkpoint that is there
            already is gone on from.
        beat: Called by the first process after each step.
        mask: The tokenizer's mask token, for `settings.masked`; None leaves masked-token prediction out.

    Raises:
        FitFailed: The loss is not finite, the model has no such modules, or the checkpoint is of another fit.
    """
    if len(tokens) != len(problem.vectors):
        raise ValueError("there must be one text for each base vector")
    team = team or Team()
    torch.use_deterministic_algorithms(True, warn_only=team.device.type == "cuda")
    return _Fit(module, tokens, problem, settings, progress, team, folder, mask).run(beat)


class _Fit:
    """One fit under way."""

    def __init__(
        self,
        module: SentenceModule,
        tokens: TokenIds,
        task: Problem,
        settings: LoraSettings,
        progress: Progress,
        team: Team,
        folder: WorkFolder | None,
        mask: MaskIds | None,
    ) -> None:
        self.tokens, self.problem, self.settings, self.tell = tokens, task, settings, progress
        self.team, self.folder = team, folder
        self.steps = settings.steps_for(rows_to_fit(task))
        self.model = LoraModel(module, settings, team.device)
        # Before a checkpoint is read: the adapter changes nothing yet.
        self.replay = self._replay() if settings.replay else None
        self.names = list(self.model.parameters)
        self.weights = list(self.model.parameters.values())
        self.optimizer = torch.optim.AdamW(self.weights, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.task = _digest(module, tokens, task, settings)
        self.scored, self.scored_texts = scored_part(task, settings.scored_rows, settings.seed)
        self.selector = Selector(self.scored) if rows_to_select(task) else None
        self.at = self._resumed() or self._begun()
        self.model.precision = self.at.precision
        self.masked = None if mask is None or not settings.masked else self._masked(mask)
        self.masked_losses: list[float] = []

    def _replay(self) -> Replay:
        settings = self.settings
        return Replay(self.model, self.tokens, weight=settings.replay, seed=settings.seed, team=self.team)

    def _masked(self, mask: MaskIds) -> MaskedTokens:
        settings = self.settings
        return MaskedTokens(
            self.model, self.tokens, mask, chunk_tokens=settings.chunk_tokens, seed=settings.seed, team=self.team
        )

    def run(self, beat: Beat | None) -> FittedLora:
        """Step until the end, and give what is to be kept."""
        settings, at = self.settings, self.at
        before, started = at.seconds, time.monotonic()
        every = max(1, math.ceil(self.steps / settings.evaluations))
        work = steps_of(self.problem, settings, self.team.device)
        for _ in range(at.step):  # draws of a resumed fit go on where they stopped
            next(work)
        stopped, kept_at = "steps", at.step
        while at.step < self.steps:
            loss = self._step(next(work))
            at.seconds = self.team.of_first(before + time.monotonic() - started)
            out_of_time = at.seconds > settings.time_budget_s
            last = at.step == self.steps or out_of_time
            if at.step % every == 0 or last:
                self._measure(loss)
            if out_of_time:
                stopped = "time"
                break
            if sum(1 for point in at.curve if point[0] > at.best_step) >= settings.patience:
                stopped = "patience"
                break
            if at.step % settings.checkpoint_every == 0 and not last:
                self._checkpoint()
                kept_at = 0 if self.folder is None else at.step
            if beat is not None and self.team.rank == 0:
                beat(at.step, kept_at)
        return self._outcome(stopped)

    def _step(self, step: Step) -> float:
        """One step of the optimiser; the loss before it."""
        settings, at = self.settings, self.at
        at.step += 1
        rate = settings.learning_rate * schedule(at.step, self.steps, settings.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        tokens: TokenIds = [self.tokens[text] for text in step.texts]
        whole = step.loss
        if self.replay is not None:
            tokens, whole = self.replay.join(step, tokens, at.step)
        with self.model.fitting():
            loss = gradcache.backward(
                self.model.encode,
                tokens,
                whole,
                self.weights,
                dimension=self.model.dimension,
                chunk_tokens=settings.chunk_tokens,
                held_tokens=settings.held_tokens,
                seed=(settings.seed, at.step),
                team=self.team,
            )
            if self.masked is not None:
                texts = step.texts.tolist()
                self.masked_losses.append(self.masked.add_gradient(texts, at.step, settings.masked, self.weights))
        if not math.isfinite(loss):
            raise FitFailed(f"the loss was not finite at step {at.step}; lower learning_rate or raise temperature")
        self.optimizer.step()
        keep = min(settings.averaging, at.step / (at.step + 10))
        with torch.no_grad():
            for name, parameter in self.model.parameters.items():
                at.average[name].lerp_(parameter, 1 - keep)
        return loss

    def _measure(self, loss: float) -> None:
        """Score the average, and keep it where it is the best so far, or where there is nothing to score by."""
        at = self.at
        score = self._score(at.average)
        if score is None or score > at.best_score:
            at.best, at.best_step = {name: tensor.clone() for name, tensor in at.average.items()}, at.step
            at.best_score = at.best_score if score is None else score
        at.curve.append([at.step, round(loss, 6), -1.0 if score is None else round(score, 6)])
        self._tell(loss, score)

    def _score(self, weights: dict[str, Tensor]) -> float | None:
        """The selection score of some weights, the same in every process; None without selection rows."""
        items = self._items(weights)
        return None if items is None else self.team.of_first(float(items.mean()))

    def _items(self, weights: dict[str, Tensor]) -> Scores | None:
        """The scores of the selection items under some weights; None without selection rows."""
        if self.selector is None:
            return None
        with self.model.holding(weights):
            own = self.model.vectors([self.tokens[text] for text in self.scored_texts], self.team)
        vectors = np.zeros((len(self.tokens), self.model.dimension), dtype=np.float32)
        vectors[self.scored_texts] = own
        return self.selector.items(lambda base: vectors)

    def _share(self) -> tuple[float, Scores]:
        """The share of the best weights that is kept, and the items' scores under it."""
        items = {share: self._items(scaled(self.at.best, share)) for share in self.settings.shares}
        known = {share: scores for share, scores in items.items() if scores is not None}
        if not known:
            return max(items), np.empty(0)
        share = self.team.of_first(largest_good(known))
        return share, known[share]

    def _tell(self, loss: float | None, score: float | None) -> None:
        if self.team.rank == 0:
            best = None if self.at.best_score < 0 else self.at.best_score
            self.tell({"step": self.at.step, "steps": self.steps, "loss": loss, "score": score, "best": best})

    def _begun(self) -> _Progress:
        """A fit at its beginning."""
        settle_precision(self.model, self.tokens, self.settings.precision, self.team)
        self.at = _Progress(self.model.state(), self.model.state(), self.model.precision)
        self.at.base_score = self._score(self.at.average)
        self._tell(None, self.at.base_score)
        return self.at

    def _checkpoint(self) -> None:
        if self.folder is None or self.team.rank != 0:
            return
        at = self.at
        tensors: dict[str, Tensor] = {}
        parts = {
            "weight/": self.model.state(),
            "average/": at.average,
            "best/": at.best,
            "moment/": checkpoints.moments(self.optimizer, self.names),
        }
        for prefix, part in parts.items():
            tensors |= {f"{prefix}{name}": tensor for name, tensor in part.items()}
        state = {name: getattr(at, name) for name in _PLAIN}
        checkpoints.save(self.folder, Checkpoint(self.task, state, tensors))

    def _resumed(self) -> _Progress | None:
        """The fit as its checkpoint left it, if there is one."""
        found = None if self.folder is None else checkpoints.load(self.folder, self.task)
        if found is None:
            return None
        self.model.set(found.part("weight/"))
        device = self.team.device
        average, best = ({name: tensor.to(device) for name, tensor in found.part(part).items()} for part in _COPIES)
        checkpoints.set_moments(self.optimizer, self.names, found.part("moment/"), found.state["step"])
        return _Progress(average=average, best=best, **found.state)

    def _outcome(self, stopped: str) -> FittedLora:
        at = self.at
        share, items = self._share()
        self.model.set(scaled(at.best, share))
        self.model.precision = "fp32"
        shown = [self.tokens[text] for text in range(min(WITNESSES, len(self.tokens)))]
        report: dict[str, Any] = {
            "base_score": at.base_score,
            "select_score": self.team.of_first(float(items.mean())) if len(items) else None,
            "alpha": share,
            "best_step": at.best_step,
            "steps_run": at.step,
            "stopped": stopped,
            "temperature": temperature_of(self.problem, self.settings),
            "precision": at.precision,
            "processes": self.team.size,
            "curve": at.curve,
            "seconds": round(at.seconds, 2),
        }
        if self.masked_losses:
            ends = (self.masked_losses[0], self.masked_losses[-1])
            report["extra"] = {"masked_tokens": {"loss_first": round(ends[0], 4), "loss_last": round(ends[1], 4)}}
        return FittedLora(
            config=self.model.config(),
            tensors={name: tensor.cpu() for name, tensor in self.model.state().items()},
            witness=(shown, self.model.vectors(shown, Team(device=self.team.device))),
            settings=self.settings,
            report=report,
            items=items,
        )


_PLAIN = ("precision", "step", "best_step", "best_score", "base_score", "seconds", "curve")
_COPIES = ("average/", "best/")


def scaled(weights: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Matrices of an adapter whose change of the model is that share of what these change."""
    return {name: tensor * share if ".lora_B." in name else tensor for name, tensor in weights.items()}


def schedule(step: int, steps: int, warm_up: float) -> float:
    """Share of the peak learning rate at a step from 1: linear warm-up, then half a cosine down to 0.

    Loshchilov & Hutter, arXiv 1608.03983.
    """
    warm = max(1, round(warm_up * steps))
    return min(1.0, step / warm) * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))


def _digest(module: SentenceModule, tokens: TokenIds, task: Problem, settings: LoraSettings) -> str:
    """Digest of all that a fit follows from: the weights it starts with, texts, rows and settings."""
    plain = [settings.to_dict(), [list(row) for row in tokens]]
    digest = hashlib.sha256(json.dumps(plain).encode() + problem.to_bytes(task))
    for name, parameter in module.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
