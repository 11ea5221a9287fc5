"""What a default refit brings, on rows no fit saw: `python benchmarks/refit_reach.py DATA [--seeds 5] [--only full]`.

DATA holds banking77/, stsb/ and tldr-commands/. Each refit runs through the job (dataset, worker, gate) with the
default recipe but for its seed; vectors are those of the published artifact on the serving runtime. Every seed draws
its own rows where rows are drawn. Prints mean ± standard deviation over the seeds beside the bare backbone and the aim.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from refits import Labels, Pages, Vectors, Workshop, drawn, judged_pairs, knn, labelled, spearman

from monitoring.classifier import few_shot, fit_logistic
from training.served import Encode

LOGISTIC_C = 10.0
PARTS = ("full", "few", "unseen", "pages")
Labelled = tuple[Vectors, Labels]


class Table:
    """Figures by row, one for each seed."""

    def __init__(self) -> None:
        self.rows: dict[str, list[float]] = {}
        self.base: dict[str, list[float]] = {}
        self.aims: dict[str, str] = {}

    def add(self, name: str, base: float, value: float, aim: str = "") -> None:
        """A figure of one seed."""
        self.rows.setdefault(name, []).append(value)
        self.base.setdefault(name, []).append(base)
        self.aims[name] = aim

    def show(self) -> None:
        """Print what there is."""
        print("| measure | base | refit, mean ± sd | seeds | aim |\n| --- | ---: | ---: | ---: | --- |")
        for name, values in self.rows.items():
            spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
            row = f"{np.mean(self.base[name]):.4f} | {np.mean(values):.4f} ± {spread:.4f} | {len(values)}"
            print(f"| {name} | {row} | {self.aims[name]} |", flush=True)


class Reach:
    """The refits of one run, and what they brought."""

    def __init__(self, data: Path, home: Path) -> None:
        self.shop, self.table = Workshop(home), Table()
        self.data = data
        self.train, self.labels = labelled(data / "banking77" / "train.csv")
        self.test, self.truth = labelled(data / "banking77" / "test.csv")
        self.judged = {part: judged_pairs(data / "stsb" / f"{part}.csv") for part in ("dev", "test")}
        self.general = {part: spearman(self.shop.base, pairs) for part, pairs in self.judged.items()}
        self.of_train, self.of_test = self.shop.base(self.train), self.shop.base(self.test)

    def full(self, seed: int) -> None:
        """All rows of train."""
        encode = self._refit("full", seed, np.arange(len(self.train)), "≤ 45 s")
        index, asked = encode(self.train), encode(self.test)
        self._knn("Banking77, all rows", (self.of_train, self.labels), (index, self.labels), asked, "≥ 0.940")
        labels, truth = self.labels.tolist(), self.truth.tolist()
        base = float(few_shot(self.of_train, labels, self.of_test, truth).items.mean())
        own = float(few_shot(index, labels, asked, truth).items.mean())
        self.table.add("Banking77, MTEB protocol", base, own, "≥ 0.850")
        self._general("all rows", encode)

    def few(self, seed: int) -> None:
        """Ten rows of each label."""
        rows = drawn(self.labels, 10, seed)
        encode = self._refit("few", seed, rows, "")
        index, asked, labels = encode([self.train[row] for row in rows]), encode(self.test), self.labels[rows]
        self._knn("Banking77, 10 a label", (self.of_train[rows], labels), (index, labels), asked, "≥ 0.872")
        before, after = (
            float(fit_logistic(x, labels.tolist(), c=LOGISTIC_C).predict(q).correct(self.truth.tolist()).mean())
            for x, q in ((self.of_train[rows], self.of_test), (index, asked))
        )
        self.table.add(f"Banking77, 10 a label, logistic regression (C {LOGISTIC_C:g})", before, after, "≥ 0.872")
        self._general("10 a label", encode)

    def unseen(self, seed: int) -> None:
        """Rows of half of the labels; judged on the other half."""
        names = np.random.default_rng(seed).permutation(np.unique(self.labels))
        seen = np.isin(self.labels, names[: len(names) // 2])
        encode = self._refit("unseen", seed, np.flatnonzero(seen), "")
        queries = ~np.isin(self.truth, names[: len(names) // 2])
        index, asked = encode(self.train)[~seen], encode(self.test)[queries]
        base = knn(self.of_train[~seen], self.labels[~seen], self.of_test[queries], self.truth[queries])
        own = knn(index, self.labels[~seen], asked, self.truth[queries])
        for name, before, after in zip(("1-NN", "10-NN"), base, own, strict=True):
            self.table.add(f"half of the intents never fitted, on those, {name}", before, after, "no loss")

    def pages(self, seed: int) -> None:
        """Pairs of a task and the page of its command."""
        pages = Pages.read(self.data / "tldr-commands")
        rows = [{"anchor": query, "positive": pages.texts[page]} for query, page in pages.pairs]
        name = f"pages-{seed}"
        done = self.shop.refit(name, rows, {"seed": seed})
        self.table.add(f"command pages, seconds ({done.method}, {done.outcome})", 0.0, done.seconds, "≤ 720 s")
        encode = self.shop.encode(name, done.version)
        base, own = pages.scores(self.shop.base), pages.scores(encode)
        for metric, value in own.items():
            aim = "≥ 0.44" if metric == "nDCG@10" else ""
            self.table.add(f"command pages, {metric}", base[metric], value, aim)
        self._general("command pages", encode)

    def _refit(self, part: str, seed: int, rows: Any, aim: str) -> Encode:
        name = f"{part}-{seed}"
        done = self.shop.refit(
            name, [{"text": self.train[row], "label": str(self.labels[row])} for row in rows], {"seed": seed}
        )
        self.table.add(f"{part}: seconds ({done.method}, {done.outcome})", 0.0, done.seconds, aim)
        return self.shop.encode(name, done.version)

    def _knn(self, name: str, base: Labelled, own: Labelled, asked: Vectors, aim: str) -> None:
        before = knn(*base, self.of_test, self.truth)
        after = knn(*own, asked, self.truth)
        for kind, low, high in zip(("1-NN", "10-NN"), before, after, strict=True):
            self.table.add(f"{name}, {kind}", low, high, aim)

    def _general(self, name: str, encode: Encode) -> None:
        for part, pairs in self.judged.items():
            aim = "loss ≤ 0.005"
            self.table.add(f"STS-B {part} after {name}", self.general[part], spearman(encode, pairs), aim)


def main() -> None:
    """Run the refits and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default=",".join(PARTS), help=f"comma-separated, of {', '.join(PARTS)}")
    options = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as home:
        reach = Reach(options.data, Path(home))
        acts: dict[str, Callable[[int], None]] = {part: getattr(reach, part) for part in PARTS}
        for part in options.only.split(","):
            for seed in range(options.seeds):
                acts[part](seed)
            reach.table.show()


if __name__ == "__main__":
    main()
