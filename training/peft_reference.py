"""The pretrained model of a LoRA adapter, and the adapter run on it by PEFT: what an import is held against."""

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from encoder.manifest import BackboneManifest
from encoder.runtime import Run
from training.peft_folder import CONFIG, HARMLESS, PREFIX, TENSORS, LoraRefused, PeftAdapter
from training.sources import PACKAGED_SHA256, Source, open_source

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Settings that PEFT would follow out of the folder, or that only matter while training.
_DROPPED = frozenset(
    {"auto_mapping", "base_model_name_or_path", "eva_config", "init_lora_weights", "revision", "task_type"}
)


def find_source(base: str | None, config: Mapping[str, Any], backbone: BackboneManifest) -> Source:
    """The pretrained model in torch that the backbone was exported from.

    Args:
        base: A folder or a hub id; None looks where the backbone, then the adapter says it came from.
        config: The adapter's settings.
        backbone: The backbone it is to stand on.

    Raises:
        LoraRefused: The adapter names another model, or the pretrained weights are not those of the backbone.
        ExportRefused: The model cannot be read.
    """
    named = config.get("base_model_name_or_path")
    named = named if isinstance(named, str) else ""
    origin = _HUB_ID.search(backbone.source)
    known = origin.group() if origin and not backbone.source.startswith("folder ") else None
    if (weights := Path(named) / "model.safetensors").is_file():
        with weights.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != backbone.weights_sha256:
                raise LoraRefused(f"{CONFIG}: the adapter was trained on other weights than those of the backbone")
    elif known is not None and _HUB_ID.fullmatch(named) and named.lower() != known.lower():
        raise LoraRefused(f"{CONFIG}: the adapter was trained on {named}, the backbone is {known}")
    if base is None and backbone.weights_sha256 != PACKAGED_SHA256:
        base = named if weights.is_file() else known
        if base is None:
            raise LoraRefused("where are the backbone's pretrained weights? name their folder or hub id with --base")
    source = open_source(base)
    if source.weights_sha256 != backbone.weights_sha256:
        raise LoraRefused(f"the weights of {source.described} are not those the backbone was exported from")
    return source


def open_reference(source: Source, stored: PeftAdapter) -> tuple[Run, PeftAdapter]:
    """Vectors under the adapter as PEFT computes them in torch, and the adapter by the encoder's own names.

    PEFT is given a folder with what was read here and no more.

    Raises:
        LoraRefused: The adapter does not fit the model, or PEFT puts it on other modules than it has weights for.
        ExportRefused: The model cannot be loaded.
    """
    import peft
    import torch
    from peft.tuners.lora import LoraLayer
    from safetensors.torch import save_file

    from training.export import quietly
    from training.sentence import load_module

    with quietly(), tempfile.TemporaryDirectory(prefix="driftline-lora-") as name:
        module = load_module(source)
        linears = {
            name: (part.in_features, part.out_features)
            for name, part in module.model.named_modules()
            if isinstance(part, torch.nn.Linear)
        }
        adapter, outer = stored.within(linears)
        folder = Path(name)
        (folder / CONFIG).write_text(json.dumps(_clean(stored.config, outer)), encoding="utf-8")
        tensors = {
            f"{PREFIX}{site}.lora_{side}.weight": torch.from_numpy(matrix).contiguous()
            for site, pair in adapter.tensors.items()
            for side, matrix in zip("AB", pair, strict=True)
        }
        save_file(tensors, folder / TENSORS)
        try:
            adapted = peft.PeftModel.from_pretrained(module.model, folder, torch_device="cpu").eval()
        except Exception as error:  # PEFT raises many kinds
            raise LoraRefused(f"PEFT cannot put the adapter on the backbone: {type(error).__name__}") from error
        inner: Any = adapted.base_model.model
        changed = {name for name, part in inner.named_modules() if isinstance(part, LoraLayer)}
        if changed != adapter.tensors.keys():
            odd = sorted(changed ^ adapter.tensors.keys())[0]
            raise LoraRefused(f"{CONFIG} and {TENSORS} do not name the same modules: {odd} is in only one of them")
        module.model = adapted
    return module.run, adapter


def _clean(config: Mapping[str, Any], outer: str) -> dict[str, Any]:
    """The settings that say what the adapter computes, its modules by the encoder's own names."""
    kept = {name: value for name, value in config.items() if name in HARMLESS - _DROPPED}
    for name in ("target_modules", "exclude_modules"):
        if isinstance(kept.get(name), list):
            kept[name] = [str(module).removeprefix(outer) for module in kept[name]]
    return {**kept, "inference_mode": True}
