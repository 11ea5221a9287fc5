"""Folders that only look like PEFT's: each is refused by its own error before anything of it is used."""

import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from training.peft_folder import CONFIG, TENSORS, LoraRefused, read_folder

GOOD: dict[str, Any] = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"], "bias": "none", "rank_pattern": {},
    "alpha_pattern": {}, "init_lora_weights": True, "use_rslora": False,
}  # fmt: skip
PREFIX = "base_model.model.layer.query"


def weights(**more: np.ndarray) -> bytes:
    ones = np.ones((2, 8), np.float32)
    tensors = {f"{PREFIX}.lora_A.weight": ones, f"{PREFIX}.lora_B.weight": np.ascontiguousarray(ones.T), **more}
    data: bytes = safetensors.numpy.save(tensors)
    return data


def folder_of(path: Path, config: bytes | dict[str, Any] = GOOD, tensors: bytes | None = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / CONFIG).write_bytes(config if isinstance(config, bytes) else json.dumps(config).encode())
    (path / TENSORS).write_bytes(weights() if tensors is None else tensors)
    return path


def test_a_whole_folder_is_read(tmp_path: Path) -> None:
    assert read_folder(folder_of(tmp_path / "f")).rank == 2


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
@pytest.mark.parametrize("kind", ["pipe", "folder", "link to nothing", "link to itself", "device"])
def test_what_is_no_plain_file_is_refused_and_not_waited_for(tmp_path: Path, name: str, kind: str) -> None:
    folder = folder_of(tmp_path / "f")
    path = folder / name
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "link to nothing":
            path.symlink_to("nowhere")
        case "link to itself":
            path.symlink_to(path)
        case _:
            path.symlink_to("/dev/zero")
    with pytest.raises(LoraRefused, match=name.replace(".", r"\.")):
        read_folder(folder)


@pytest.mark.parametrize(
    "config",
    [
        b"", b"\xff\xfe", b"[" * 100_000, b"null", b'{"peft_type": "LORA", "r": ' + b"9" * 5000 + b"}",
        {**GOOD, "lora_alpha": 10**400}, {**GOOD, "lora_alpha": float("inf")}, {**GOOD, "lora_alpha": float("nan")},
        {**GOOD, "lora_alpha": 1e300}, {**GOOD, "lora_alpha": True}, {**GOOD, "lora_alpha": "4"},
        {**GOOD, "alpha_pattern": {"query": 10**400}}, {**GOOD, "alpha_pattern": {"query": []}},
        {**GOOD, "rank_pattern": {"\\5": 2}}, {**GOOD, "rank_pattern": {"a\\": 2}},
        {**GOOD, "rank_pattern": {"(a+)+": 2}},
        {**GOOD, "rank_pattern": [1]}, {**GOOD, "r": 3}, {**GOOD, "r": None}, {**GOOD, "r": [2]},
        {**GOOD, "peft_type": ["LORA"]}, {**GOOD, "init_lora_weights": []}, {**GOOD, "init_lora_weights": "pissa"},
        {**GOOD, "use_dora": 1}, {**GOOD, "modules_to_save": {"a": 1}}, {**GOOD, "unheard_of": "x"},
    ],
)  # fmt: skip
def test_configs(tmp_path: Path, config: bytes | dict[str, Any]) -> None:
    with pytest.raises(LoraRefused) as refused:
        read_folder(folder_of(tmp_path / "f", config))
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "tensors",
    [
        b"", b"\x00" * 100, struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 100_000) + b"[" * 100_000, weights(x=np.ones(1, np.float32)),
        weights(**{f"{PREFIX}.lora_A.weight": np.full((2, 8), np.nan, np.float32)}),
        weights(**{f"{PREFIX}.lora_A.weight": np.full((2, 8), 1e30, np.float32)}),
        weights(**{f"{PREFIX}.lora_A.weight": np.ones((2, 8), np.int8)}),
        weights(**{f"{PREFIX}.lora_A.weight": np.ones((0, 8), np.float32)}),
        weights(**{f"{PREFIX}.lora_A.weight": np.ones((300, 8), np.float32)}),
        weights(**{f"{PREFIX}2.lora_A.weight": np.ones((2, 8), np.float32)}),
    ],
)  # fmt: skip
def test_tensors(tmp_path: Path, tensors: bytes) -> None:
    with pytest.raises(LoraRefused, match=TENSORS.replace(".", r"\.")):
        read_folder(folder_of(tmp_path / "f", tensors=tensors))


def test_damage_anywhere_is_refused_or_harmless(tmp_path: Path) -> None:
    draw = random.Random(0)
    whole = weights()
    refused = 0
    for _ in range(int(os.environ.get("DRIFTLINE_EXAMPLES", "400"))):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 3, 10))):
            data[draw.randrange(draw.choice((8, 200, len(data))))] = draw.randrange(256)
        try:
            read_folder(folder_of(tmp_path / "f", tensors=bytes(data[: draw.choice((len(data), draw.randrange(400)))])))
        except LoraRefused:
            refused += 1
    assert refused > 100
