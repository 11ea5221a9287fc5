"""`python -m benchmarks.drift DATA`: the card of the drift monitor, or the parts that --only names."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.drift import cost, dated, delay, level, naming, wine
from benchmarks.drift.corpus import Corpus
from benchmarks.drift.environments import ROOT
from benchmarks.drift.settings import Card
from benchmarks.machine import describe

STATED: Final = (1_000, 10_000, 100_000)


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__)
    parser.add_argument("data", type=Path, help="holds banking77, clinc-part, tldr-commands and bugs-hadoop")
    parser.add_argument("--data-dir", type=Path, help="home with an imported backbone; needed once, to encode texts")
    parser.add_argument("--cache", type=Path, default=ROOT / "drift", help="keeps vectors, streams and rivals' results")
    parser.add_argument("--wine", type=Path, help="folder of winequality-white.csv and winequality-red.csv (UCI)")
    parser.add_argument("--without-rivals", action="store_true", help="delays of this monitor alone")
    parts: dict[str, tuple[str, Callable[[Card, argparse.Namespace], None]]] = {
        "level": ("Run lengths without drift", lambda card, _: level.run_lengths(card, STATED)),
        "windows": ("Single windows without drift", lambda card, _: level.windows(card)),
        "dated": ("Time-ordered text", lambda card, _: dated.dated(card)),
        "delay": ("Delay at equal run length", lambda card, asked: delay.delays(card, not asked.without_rivals)),
        "far": ("5 % novel traffic at a run length of 1,000,000", lambda card, _: delay.far(card)),
        "naming": ("Explanation", lambda card, _: naming.naming(card)),
        "wine": ("alibi-detect's own work", lambda card, asked: wine.wine(card, asked.wine)),
        "cost": ("Cost", lambda card, _: cost.cost(card)),
    }
    parser.add_argument("--only", default=",".join(parts), help="some of: %(default)s")
    asked = parser.parse_args()
    wanted = asked.only.split(",")
    if unknown := set(wanted) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    print(describe())
    card = Card(asked.cache / "card", Corpus.at(asked.cache, asked.data, asked.data_dir))
    for name in wanted:
        title, show = parts[name]
        print(f"\n## {title}", flush=True)
        show(card, asked)


if __name__ == "__main__":
    main()
