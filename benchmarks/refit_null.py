"""Data on which no adapter can help: `python benchmarks/refit_null.py DATA [--runs 20] [--rows 2000]`.

Every run draws rows of banking77/train.csv, permutes their labels, and refits on them through the job with the default
recipe; then a few on pairs of tldr-commands with their answers permuted. Nothing may pass the gate, let alone go live.
Prints each run's verdict with the measured effect on the primary metric, and how many passed.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from refits import Pages, RefitFailed, Workshop, labelled

from registry import versions


def permuted_labels(path: Path, rows: int, seed: int) -> list[dict[str, Any]]:
    """Drawn rows, each with the label of another."""
    texts, labels = labelled(path)
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(texts))[:rows]
    return [
        {"text": texts[row], "label": str(labels[other])}
        for row, other in zip(drawn, rng.permutation(drawn), strict=True)
    ]


def permuted_pairs(pages: Pages, rows: int, seed: int) -> list[dict[str, Any]]:
    """Drawn pairs, each with the answer of another."""
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(pages.pairs))[:rows]
    return [
        {"anchor": pages.pairs[row][0], "positive": pages.texts[pages.pairs[other][1]]}
        for row, other in zip(drawn, rng.permutation(drawn), strict=True)
    ]


def sets(
    data: Path, first: int, runs: int, pair_runs: int, rows: int
) -> Iterator[tuple[str, Sequence[Mapping[str, Any]], Any]]:
    """Name, rows and recipe of every run. Pairs have a head alone: a LoRA on noise takes minutes to say the same."""
    for seed in range(first, runs):
        yield f"labels-{seed}", permuted_labels(data / "banking77" / "train.csv", rows, seed), {"seed": seed}
    pages = Pages.read(data / "tldr-commands")
    for seed in range(pair_runs):
        yield f"pairs-{seed}", permuted_pairs(pages, rows, seed), {"seed": seed, "method": "head"}


def main() -> None:
    """Run them and print what the gate said."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed of the first run, to go on from")
    parser.add_argument("--pair-runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2000)
    options = parser.parse_args()
    print(describe())
    outcomes: Counter[str] = Counter()
    live = 0
    with tempfile.TemporaryDirectory() as home:
        shop = Workshop(Path(home))
        for name, rows, recipe in sets(options.data, options.first, options.runs, options.pair_runs, options.rows):
            try:
                done = shop.refit(name, rows, recipe)
            except RefitFailed as failed:  # a fit that collapses makes no version either
                outcomes["no version"] += 1
                print(f"{name}: {failed}", flush=True)
                continue
            with shop.registry.reading() as session:
                live += versions.live(session, name) is not None
            means = done.metrics["evaluation"]
            primary = [means[model]["ndcg_at_10"] for model in ("base", "candidate")]
            outcomes[done.outcome] += 1
            print(
                f"{name}: {done.outcome}, nDCG@10 {primary[0]:.4f} -> {primary[1]:.4f}, {done.seconds:.0f} s",
                flush=True,
            )
    print(f"verdicts: {dict(outcomes)}; gone live: {live}")


if __name__ == "__main__":
    main()
