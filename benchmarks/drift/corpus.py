"""Texts of the benchmark as vectors of the serving encoder: encoded once, kept in a folder, read back as one table."""

import csv
import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder.encoder import Encoder
from monitoring.perturbations import typos
from registry import backbones
from registry.home import Home

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
TYPO_SEVERITY = 3
"""A slip in 40 % of a text's longer words."""


@dataclass(frozen=True)
class Corpus:
    """One table of unit vectors (n, d) and the rows of it that each pool holds.

    Attributes:
        folder: Where the table lies; rivals read `vectors.npy` there.
        vectors: (n, d) float32.
        pools: Row numbers by name: banking, out_of_scope, commands, typos, reports.
        labels: The intent of each row of `banking`, in its order.
    """

    folder: Path
    vectors: Vectors
    pools: dict[str, Rows]
    labels: NDArray[np.str_]

    @classmethod
    def at(cls, folder: Path, data: Path, home: Path | None) -> "Corpus":
        """The stored table of `folder`; made from the texts under `data` by the backbone of `home` where missing."""
        if not (folder / "pools.json").exists():
            _encode(folder, data, home)
        stored = json.loads((folder / "pools.json").read_text())
        pools = {name: np.arange(start, stop) for name, (start, stop) in stored["pools"].items()}
        return cls(folder, np.load(folder / "vectors.npy"), pools, np.array(stored["labels"]))


def _encode(folder: Path, data: Path, home: Path | None) -> None:
    registry = Home.at(home).registry()
    with registry.reading() as session:
        backbone = backbones.default(session)
    if backbone is None:
        raise SystemExit("no backbone is imported; run: driftline backbone import")
    encoder = Encoder.open(backbone.digest, registry.fetch)
    banking = _banking(data)
    words = [text for text, _ in banking]
    texts = {
        "banking": words,
        "out_of_scope": [row["text"] for part in ("train", "val", "test") for row in _lines(data, f"oos_{part}")],
        "commands": [json.loads(line)["query"] for line in _open(data / "tldr-commands" / "dev.jsonl")],
        "typos": [typos(text.split(), TYPO_SEVERITY, random.Random(row)) for row, text in enumerate(words)],
        # In the order of their dates.
        "reports": [
            f"{row['title']}. {row['body']}" for row in map(json.loads, _open(data / "bugs-hadoop" / "corpus.jsonl.gz"))
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum([0, *map(len, texts.values())])
    pools = {name: [int(ends[at]), int(ends[at + 1])] for at, name in enumerate(texts)}
    np.save(folder / "vectors.npy", np.concatenate([encoder.encode(t, truncate=True).vectors for t in texts.values()]))
    registry.close()
    (folder / "pools.json").write_text(json.dumps({"pools": pools, "labels": [label for _, label in banking]}))


def _banking(data: Path) -> list[tuple[str, str]]:
    """Texts and intents of train.csv and test.csv together, repeats left out."""
    found: dict[str, tuple[str, str]] = {}
    for part in ("train", "test"):
        with (data / "banking77" / f"{part}.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["text"].casefold(), (row["text"], row["label"]))
    return list(found.values())


def _lines(data: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in _open(data / "clinc-part" / f"{name}.jsonl")]


def _open(path: Path) -> list[str]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return file.read().splitlines()
    return path.read_text(encoding="utf-8").splitlines()
