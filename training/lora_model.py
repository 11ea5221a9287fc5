"""A pretrained sentence model with a LoRA adapter of PEFT on it: run in chunks, its adapter read and set."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.batch import TokenIds, plan_batches
from training.errors import FitFailed
from training.lora_settings import LoraSettings
from training.sentence import SentenceModule, padded
from training.team import Team

_ADAPTER = ".default.weight"  # how PEFT ends the names of the parameters it adds
# Layers behind the tokens' vectors, which BERT-like models carry and sentence vectors do not use.
_UNUSED = "pooler."


class LoraModel:
    """A sentence model whose only trainable weights are those of its adapter; at the start it computes as without.

    Attributes:
        parameters: The adapter's matrices, by the names that PEFT stores them under.
        dimension: Width of the vectors.
        precision: "fp32" or "bf16".
    """

    def __init__(self, module: SentenceModule, settings: LoraSettings, device: torch.device) -> None:
        """Put an adapter on the module, which is changed by this.

        Raises:
            FitFailed: The module has no Linear layer of the names that the settings give.
        """
        import peft

        from training.export import quietly

        targets = _targets(module.model, settings.targets)
        torch.manual_seed(settings.seed)
        config = peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            use_rslora=settings.rslora,
            lora_dropout=settings.dropout,
            target_modules=targets,
        )
        with quietly():
            adapted: Any = peft.get_peft_model(module.model, config)
        self._inner = _InPrecision(adapted)
        module.model = self._inner
        self._module = module.eval().to(device)
        self._device = device
        self._dropouts = [part for name, part in module.named_modules() if ".lora_dropout." in name]
        self.parameters: dict[str, torch.nn.Parameter] = {
            name.removeprefix("model.model.").replace(_ADAPTER, ".weight"): parameter
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self.dimension = int(self.encode([[0]]).shape[1])
        self._settings = settings

    @property
    def precision(self) -> str:
        """Number format of the matrix products."""
        return "bf16" if self._inner.bf16 else "fp32"

    @precision.setter
    def precision(self, precision: str) -> None:
        self._inner.bf16 = precision == "bf16"

    def encode(self, tokens: TokenIds) -> Tensor:
        """Vectors (n, d) float32, unit rows, of one run, with a graph where gradients are on."""
        ids, mask = padded(tokens)
        vectors: Tensor = self._module(ids.to(self._device), mask.to(self._device))
        return vectors

    def hidden(self, tokens: TokenIds) -> Tensor:
        """Each token's last vector (n, t, h) float32 of one run, padded to the longest text, before pooling."""
        ids, mask = (part.to(self._device) for part in padded(tokens))
        output: Tensor = self._inner(
            input_ids=ids, attention_mask=mask, **self._module.token_types(ids)
        ).last_hidden_state
        return output

    @property
    def vocabulary(self) -> int:
        """How many token numbers there are."""
        adapted: Any = self._inner.model
        return int(adapted.get_input_embeddings().weight.shape[0])

    def embeddings(self, tokens: Tensor) -> Tensor:
        """The input embeddings (k, e) float32 of token numbers (k,), which no fit changes."""
        adapted: Any = self._inner.model
        table: Tensor = adapted.get_input_embeddings().weight
        return table.detach()[tokens].clone()

    def vectors(self, tokens: TokenIds, team: Team) -> npt.NDArray[np.float32]:
        """Vectors (n, d) float32 of any number of texts under the present adapter, shared out over the team."""
        found = torch.zeros(len(tokens), self.dimension, device=self._device)
        batches = plan_batches([len(row) for row in tokens], self._settings.chunk_tokens)
        with torch.inference_mode():
            for rows in batches[team.rank :: team.size]:
                found[rows] = self.encode([tokens[row] for row in rows])
        team.add_up(found)
        vectors: npt.NDArray[np.float32] = found.cpu().numpy()
        return vectors

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """With the adapter's dropout on."""
        for part in self._dropouts:
            part.train()
        try:
            yield
        finally:
            for part in self._dropouts:
                part.eval()

    @contextmanager
    def holding(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """With other weights in the adapter's place."""
        before = self.state()
        self.set(weights)
        try:
            yield
        finally:
            self.set(before)

    @contextmanager
    def without(self) -> Iterator[None]:
        """As the pretrained model is, the adapter's branches giving nothing."""
        off = {name: torch.zeros_like(value) for name, value in self.parameters.items() if ".lora_B." in name}
        with self.holding(self.state() | off):
            yield

    def state(self) -> dict[str, Tensor]:
        """A copy of the adapter's matrices."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def set(self, weights: Mapping[str, Tensor]) -> None:
        """Put these matrices in place of the adapter's."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])

    def config(self) -> dict[str, Any]:
        """The adapter's `adapter_config.json`, without where the model lay on this machine."""
        settings = self._settings
        modules = sorted({_module_of(name) for name in self.parameters})
        return {
            "peft_type": "LORA",
            "r": settings.rank,
            "lora_alpha": settings.alpha,
            "use_rslora": settings.rslora,
            "lora_dropout": settings.dropout,
            "target_modules": modules,
            "bias": "none",
            "init_lora_weights": True,
            "inference_mode": True,
        }


def faster_precision(model: LoraModel, tokens: TokenIds) -> str:
    """The number format in which a run forward and back over these texts takes less time, the better of two."""
    seconds = {}
    for precision in ("fp32", "bf16"):
        model.precision = precision
        taken = []
        for _ in range(3):  # the first one warms up
            started = time.perf_counter()
            model.encode(tokens).sum().backward()  # type: ignore[no-untyped-call]
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - started)
        seconds[precision] = min(taken[1:])
    for parameter in model.parameters.values():
        parameter.grad = None
    return min(seconds, key=seconds.__getitem__)


def settle_precision(model: LoraModel, tokens: TokenIds, wanted: str, team: Team) -> None:
    """Set the number format of a fit, the same in every process: the one wanted, or for "auto" the faster one.

    The fixed sample of 32 texts is of the longer half, which takes most of the time.
    """
    if wanted == "auto":
        lengths = np.argsort([len(row) for row in tokens], kind="stable")
        sample = [tokens[int(text)] for text in lengths[len(lengths) // 2 :][:32]]
        wanted = "bf16" if team.of_first(float(faster_precision(model, sample) == "bf16")) else "fp32"
    model.precision = wanted


class _InPrecision(torch.nn.Module):
    """The transformer under autocast, its output in float32: pooling and length are computed in full precision."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.bf16 = False

    def forward(self, **inputs: Tensor) -> Any:
        with torch.autocast(inputs["input_ids"].device.type, torch.bfloat16, enabled=self.bf16):
            output = self.model(**inputs)
        output.last_hidden_state = output.last_hidden_state.float()
        return output


def _targets(model: torch.nn.Module, wanted: Sequence[str] | None) -> list[str]:
    """Full names of the Linear modules that get a branch."""
    linears = [
        name
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and not name.startswith(_UNUSED)
    ]
    if wanted is None:
        return linears
    for target in wanted:
        if not any(f".{name}".endswith(f".{target}") for name in linears):
            raise FitFailed(f"LoRA settings: the model has no Linear module named {target}")
    return [name for name in linears if any(f".{name}".endswith(f".{target}") for target in wanted)]


def _module_of(name: str) -> str:
    return name.removeprefix("base_model.model.").rpartition(".lora_")[0]
