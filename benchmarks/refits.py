"""For the benchmarks of refitting: a throw-away home, jobs in it, and vectors of what came out, as they are served."""

import csv
import gzip
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from encoder.encoder import Encoder
from registry import backbones, versions
from registry.home import Home
from training.served import Encode, encode_with

Vectors = npt.NDArray[np.float32]
Labels = npt.NDArray[np.str_]


class RefitFailed(Exception):
    """A job made no version; the message says how it ended."""


@dataclass(frozen=True, slots=True)
class Refit:
    """A finished job: seconds from its request to its end, the verdict's outcome, the kept method, and the version."""

    seconds: float
    outcome: str
    method: str
    version: int
    metrics: Mapping[str, Any]


class Workshop:
    """A home with the default backbone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run("backbone", "import", "--if-missing")
        self.registry = Home.at(folder).registry()
        with self.registry.reading() as session:
            backbone = backbones.default(session)
        if backbone is None:
            raise SystemExit("no backbone was imported")
        self._encoder = Encoder.open(backbone.digest, self.registry.fetch)
        self.base: Encode = encode_with(self._encoder, self.registry.fetch, None, "")

    def refit(self, adapter: str, rows: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]) -> Refit:
        """Add rows as a dataset and refit an adapter on them through the job. Raises RefitFailed."""
        data, recipe_file = self.folder / f"{adapter}.jsonl", self.folder / f"{adapter}.json"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        recipe_file.write_text(json.dumps(dict(recipe)), encoding="utf-8")
        self._run("dataset", "add", adapter, str(data))
        started = time.perf_counter()
        told = self._run("retrain", adapter, "--dataset", adapter, "--recipe", str(recipe_file), "--wait", "--json")
        seconds = time.perf_counter() - started
        job = json.loads(told)
        if job["state"] != "succeeded":
            raise RefitFailed(f"{job['state']}: {job['error']}")
        fit = job["metrics"]["fit"]
        return Refit(seconds, job["verdict"]["outcome"], fit["method"], job["version"], job["metrics"])

    def encode(self, adapter: str, number: int) -> Encode:
        """How a version encodes."""
        with self.registry.reading() as session:
            version = versions.get(session, adapter, number)
        return encode_with(self._encoder, self.registry.fetch, version.kind, version.digest)

    def _run(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "cli", *arguments, "--data-dir", str(self.folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        # A retrain that did not go live has an exit code of its own, and its answer all the same.
        if not done.stdout.strip() and done.returncode:
            raise SystemExit(done.stderr)
        return done.stdout


def labelled(path: Path) -> tuple[list[str], Labels]:
    """Texts and labels of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], np.array([row["label"] for row in rows])


def drawn(labels: Labels, per_label: int, seed: int) -> npt.NDArray[np.int64]:
    """Row numbers of so many rows of each label."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == name))[:per_label] for name in np.unique(labels)])


def knn(index: Vectors, labels: Labels, queries: Vectors, truth: Labels) -> tuple[float, float]:
    """Accuracy of the nearest neighbour, and of ten that vote with their similarity."""
    names, codes = np.unique(labels, return_inverse=True)
    scores = queries @ index.T
    nearest = np.argpartition(-scores, 10, axis=1)[:, :10]
    votes = np.zeros((len(queries), len(names)), np.float32)
    rows = np.arange(len(queries))
    for column in range(10):
        np.add.at(votes, (rows, codes[nearest[:, column]]), scores[rows, nearest[:, column]])
    return float((labels[scores.argmax(1)] == truth).mean()), float((names[votes.argmax(1)] == truth).mean())


def judged_pairs(path: Path) -> tuple[list[str], list[str], list[float]]:
    """Sentences and their judged similarities of one STS-B file."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [r["sentence1"] for r in rows], [r["sentence2"] for r in rows], [float(r["score"]) for r in rows]


def spearman(encode: Encode, pairs: tuple[list[str], list[str], list[float]]) -> float:
    """Spearman's correlation of cosines with the judgements."""
    return float(spearmanr((encode(pairs[0]) * encode(pairs[1])).sum(axis=1), pairs[2])[0])


@dataclass(frozen=True, slots=True)
class Pages:
    """Command pages: texts, fitted pairs as (query, page number), and queries held out."""

    texts: list[str]
    pairs: list[tuple[str, int]]
    queries: list[str]
    answers: npt.NDArray[np.int64]

    @classmethod
    def read(cls, folder: Path) -> "Pages":
        """From the folder of the set."""
        corpus = _lines(folder / "corpus.jsonl.gz")
        number = {page["id"]: at for at, page in enumerate(corpus)}
        held = _lines(folder / "dev.jsonl")
        return cls(
            [f"{page['title']}. {page['body']}" for page in corpus],
            [(pair["query"], number[pair["positive"]]) for pair in _lines(folder / "train_pairs.jsonl.gz")],
            [row["query"] for row in held],
            np.array([number[row["positives"][0]] for row in held]),
        )

    def scores(self, encode: Encode) -> dict[str, float]:
        """nDCG@10, MRR@10 and recall@10 of the held-out queries over all pages."""
        found = encode(self.queries) @ encode(self.texts).T
        rank = (found > found[np.arange(len(found)), self.answers][:, None]).sum(axis=1)
        top = rank < 10
        return {
            "nDCG@10": float(np.where(top, 1 / np.log2(rank + 2), 0).mean()),
            "MRR@10": float(np.where(top, 1 / (rank + 1), 0).mean()),
            "recall@10": float(top.mean()),
        }


def _lines(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.decode("utf-8").splitlines()]
