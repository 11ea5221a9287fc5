"""Reading a PEFT folder: plain LoRA on Linear modules, from safetensors only, and a clear refusal of all else."""

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.lora import MAX_WEIGHT
from encoder.lora_manifest import MAX_RANK
from training.errors import TrainingError

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
_PICKLED = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth", "pytorch_model.bin")
_MAX_BYTES = 1 << 30
_MAX_CONFIG = 1 << 20
PREFIX = "base_model.model."
_TENSOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# Only these ways to start leave the pretrained weights as they are.
_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
# Settings that say nothing about what the finished adapter computes, and those that are read here.
HARMLESS = frozenset({
    "auto_mapping", "base_model_name_or_path", "bias", "eva_config", "exclude_modules", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_dropout", "megatron_config", "megatron_core",
    "peft_type", "peft_version", "qalora_group_size", "revision", "target_modules", "task_type", "alpha_pattern",
    "lora_alpha", "r", "rank_pattern", "use_rslora", "runtime_config",
})  # fmt: skip
_PLAIN_PATTERN = re.compile(r"\^?[\w.\\-]+\$?")  # no repetition: matching takes no time to speak of


Pair = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


class LoraRefused(TrainingError):
    """A PEFT folder cannot be imported; nothing was published. The message names the part at fault."""


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """A plain LoRA adapter as PEFT stored it.

    Attributes:
        config: adapter_config.json.
        tensors: Module -> A (r, in) and B (out, r), float32, unscaled.
        scales: Module -> the factor of B.
    """

    config: dict[str, Any]
    tensors: dict[str, Pair]
    scales: dict[str, float]

    @property
    def rank(self) -> int:
        """The largest rank of a module."""
        return max(len(a) for a, _ in self.tensors.values())

    def within(self, linears: Mapping[str, tuple[int, int]]) -> tuple["PeftAdapter", str]:
        """The adapter by the encoder's own names, and what stood in front of them.

        A model around the encoder puts its own names in front, such as `bert.` or sentence-transformers' `0.model.`.

        Args:
            linears: The encoder's Linear modules, name -> (features in, features out).

        Raises:
            LoraRefused: A tensor is for no such module, or has another shape.
        """
        first = next(iter(self.tensors))
        parts = first.split(".")
        fronts = ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts))]
        outer = next((front for front in fronts if first.removeprefix(front) in linears), "")
        names = {name: name.removeprefix(outer) if name.startswith(outer) else name for name in self.tensors}
        for name, own in names.items():
            a, b = self.tensors[name]
            if own not in linears:
                raise LoraRefused(f"{TENSORS}: the backbone has no Linear module named {own}")
            if linears[own] != (a.shape[1], len(b)):
                raise LoraRefused(
                    f"{TENSORS}: {own} reads {a.shape[1]} and gives {len(b)} features, "
                    f"the backbone's reads {linears[own][0]} and gives {linears[own][1]}"
                )
        tensors = {own: self.tensors[name] for name, own in names.items()}
        scales = {own: self.scales[name] for name, own in names.items()}
        return PeftAdapter(self.config, tensors, scales), outer

    def without(self, modules: Collection[str]) -> "PeftAdapter":
        """The adapter less some modules."""
        tensors = {name: pair for name, pair in self.tensors.items() if name not in modules}
        return PeftAdapter(self.config, tensors, self.scales)

    def pairs(self) -> dict[str, Pair]:
        """Module -> A (r, in) and B (r, out) with the scale in B and the ranks filled up with zeros to the largest."""
        found = {}
        for name, (a, b) in self.tensors.items():
            missing = ((0, self.rank - len(a)), (0, 0))
            scaled = (b.T * np.float32(self.scales[name])).astype(np.float32)
            found[name] = (np.pad(a, missing), np.pad(scaled, missing))
        return found


def read_folder(folder: Path) -> PeftAdapter:
    """Read `adapter_config.json` and `adapter_model.safetensors`; nothing else in the folder is opened.

    Raises:
        LoraRefused: A file is missing or damaged, or the adapter is not plain LoRA; names the setting or the tensor.
    """
    config = _config(folder)
    _require_plain(config)
    if not (folder / TENSORS).is_file():
        pickled = [name for name in _PICKLED if (folder / name).exists()]
        why = f" ({pickled[0]} is a pickle, which is never read; save with safe_serialization)" if pickled else ""
        raise LoraRefused(f"{TENSORS} is missing{why}")
    tensors = _tensors(folder / TENSORS)
    return PeftAdapter(config, tensors, {name: _scale(config, name, len(a)) for name, (a, _) in tensors.items()})


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        if not path.is_file():  # a pipe would be waited for without end
            raise LoraRefused(f"{CONFIG} is missing or no plain file")
        if path.stat().st_size > _MAX_CONFIG:
            raise LoraRefused(f"{CONFIG} has more than {_MAX_CONFIG} bytes")
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise LoraRefused(f"{CONFIG} is missing or not JSON") from error
    if not isinstance(config, dict):
        raise LoraRefused(f"{CONFIG} is not a JSON object")
    return config


def _require_plain(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise LoraRefused(f"{CONFIG}: peft_type is {kind!r}; only LORA is read")
    if config.get("use_dora"):
        raise LoraRefused(f"{CONFIG}: DoRA (use_dora) also scales the pretrained weights, which is not supported")
    if config.get("bias", "none") != "none":
        raise LoraRefused(f"{CONFIG}: bias is {config['bias']!r}; trained biases are not supported, train with 'none'")
    if config.get("modules_to_save"):
        raise LoraRefused(f"{CONFIG}: modules_to_save holds whole modules, which are not supported")
    if config.get("init_lora_weights") not in _STARTS:
        raise LoraRefused(
            f"{CONFIG}: init_lora_weights {config['init_lora_weights']!r} changes the pretrained weights as well; "
            "convert the adapter to plain LoRA in PEFT first"
        )
    for name, value in sorted(config.items()):
        if value and name not in HARMLESS:
            raise LoraRefused(f"{CONFIG}: {name} is set, which is more than plain LoRA on Linear modules")
    _number(config.get("lora_alpha"), "lora_alpha")
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(name) or {}
        if not isinstance(pattern, dict) or not all(map(_plain, pattern)):
            raise LoraRefused(f"{CONFIG}: {name} must give names of modules")


def _plain(pattern: str) -> bool:
    """Whether a pattern is one that may be matched, and a regular expression at all: backslashes can spoil it."""
    try:
        return _PLAIN_PATTERN.fullmatch(pattern) is not None and bool(re.compile(f"({pattern})"))
    except re.error:
        return False


def _tensors(path: Path) -> dict[str, Pair]:
    """Module -> (A, B)."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    if path.stat().st_size > _MAX_BYTES:
        raise LoraRefused(f"{TENSORS} has more than {_MAX_BYTES} bytes")
    try:
        stored = load(path.read_bytes())
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise LoraRefused(f"{TENSORS} cannot be read") from error
    found: dict[str, dict[str, npt.NDArray[np.float32]]] = {}
    for name, tensor in stored.items():
        match = _TENSOR.fullmatch(name.removeprefix(PREFIX))
        if match is None or not name.startswith(PREFIX):
            raise LoraRefused(f"{TENSORS}: {name} is not the A or B of a Linear module")
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16) or tensor.ndim != 2:
            raise LoraRefused(f"{TENSORS}: {name} is not a matrix of 16 or 32 bit floats")
        values: npt.NDArray[np.float32] = tensor.to(torch.float32).numpy()
        if not (np.abs(values) <= MAX_WEIGHT).all():  # written so that a NaN fails
            raise LoraRefused(f"{TENSORS}: {name} holds values that are not finite or beyond {MAX_WEIGHT:.0f}")
        found.setdefault(match["module"], {})[match["side"]] = values
    if not found:
        raise LoraRefused(f"{TENSORS} is empty")
    for name, sides in found.items():
        if sides.keys() != {"A", "B"}:
            raise LoraRefused(f"{TENSORS}: {name} has only one of A and B")
        if len(sides["A"]) != sides["B"].shape[1] or not 1 <= len(sides["A"]) <= MAX_RANK:
            raise LoraRefused(f"{TENSORS}: {name} has no rank from 1 to {MAX_RANK} that A and B share")
    return {name: (sides["A"], sides["B"]) for name, sides in found.items()}


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (Kalajdzievski 2023), by PEFT's rules for patterns."""
    stated = _patterned(config, "rank_pattern", module, config.get("r"))
    if stated != rank:
        raise LoraRefused(f"{CONFIG} gives {module} the rank {stated}, its matrices have {rank}")
    alpha = _number(_patterned(config, "alpha_pattern", module, config["lora_alpha"]), "alpha_pattern")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _patterned(config: Mapping[str, Any], name: str, module: str, otherwise: Any) -> Any:
    for pattern, value in (config.get(name) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_WEIGHT:
        raise LoraRefused(f"{CONFIG}: {name} is not a number up to {MAX_WEIGHT:.0f}")
    return float(value)
