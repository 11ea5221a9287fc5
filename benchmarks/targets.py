"""The targets of benchmarks/reach.py: which two figures each compares, and how its row of the table is printed.

A ratio is taken inside each round, between figures measured minutes apart on one machine, and the median over the
rounds is held against the bound; the range shows how much rounds differ.
"""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


class Samples:
    """Figures by name, one a round; a figure that is measured once stands for every round."""

    def __init__(self) -> None:
        self._found: dict[str, list[float]] = {}
        self.failed: dict[str, int] = {}

    def add(self, name: str, value: float, *, failed: int = 0) -> None:
        """Note a round's figure and the requests that failed while it was taken."""
        self._found.setdefault(name, []).append(value)
        if failed:
            self.failed[name] = self.failed.get(name, 0) + failed

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def median(self, name: str) -> float:
        """Median over the rounds."""
        return statistics.median(self._found[name])

    def ratios(self, name: str, over: str | None) -> list[float]:
        """Round by round, one figure over another; the figure itself when there is no other."""
        if over is None:
            return self._found[name]
        above, below = self._found[name], self._found[over]
        rounds = max(len(above), len(below))
        pairs = [(above[min(i, len(above) - 1)], below[min(i, len(below) - 1)]) for i in range(rounds)]
        return [a / b if b else float("inf") for a, b in pairs]


@dataclass(frozen=True, slots=True)
class Target:
    """One line of the table.

    Attributes:
        what: The line in words.
        figure, over: Names of two figures whose ratio is judged; without `over` the figure itself is.
        unit: Of the figure as printed.
        least, most: The bound; one of them.
    """

    what: str
    figure: str
    over: str | None
    unit: str
    least: float | None = None
    most: float | None = None

    def met(self, ratio: float) -> bool:
        """Whether the ratio lies within the bound."""
        return (self.least is None or ratio >= self.least) and (self.most is None or ratio <= self.most)


TARGETS = (
    Target("single texts, 32 connections, to infinity", "single", "infinity single", "texts/s", least=8),
    Target("single texts, 32 connections, to the bare runtime", "single", "bare short", "texts/s", least=0.60),
    Target("32-text requests, 8 connections, to infinity", "many", "infinity many", "texts/s", least=6),
    Target("32-text requests, 8 connections, to the bare runtime", "many", "bare short", "texts/s", least=0.85),
    Target("one connection, p50 to infinity's", "one p50", "infinity one p50", "ms", most=0.25),
    Target("one connection, p99 to p50", "one p99", "one p50", "ms", most=3),
    Target("8 to 256 tokens, 32-text requests, to the bare runtime", "mixed", "bare mixed", "texts/s", least=0.80),
    Target("64 head adapters at random, to one", "64 heads", "one head", "requests/s", least=0.95),
    Target("16 LoRA adapters at random, to one", "16 loras", "one lora", "requests/s", least=0.60),
    Target("all hits, to all misses", "hits", "single", "requests/s", least=3),
    Target("monitor on, to off", "monitor on", "monitor off", "requests/s", least=0.97),
    Target("resident memory, to infinity's", "memory", "infinity memory", "MiB", most=0.6),
    Target("growth over the soak, a share", "soak growth", None, "", most=0.02),
    Target("4 × overload, p99 of accepted, to 0.8 × load", "overload p99", "calm p99", "ms", most=1.0),
    Target("4 × overload, p99 of answers with 429", "refused p99", None, "ms", most=50),
    Target("4 × overload, time-outs", "timed out", None, "", most=0),
    Target("bulk, to the bare runtime", "bulk", "bulk bare", "texts/s", least=0.95),
    Target("reproject, file to file, to re-encoding", "reproject", "re-encoding", "rows/s", least=50),
)


def show(samples: Samples, targets: Iterable[Target] = TARGETS) -> int:
    """Print the table of every target whose figures were measured; how many of those are not met."""
    missed = 0
    print("| target | figure | beside | ratio | range | bound | met |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for target in targets:
        if target.figure not in samples or (target.over is not None and target.over not in samples):
            print(f"| {target.what} | | | | | {_bound(target)} | not measured |")
            continue
        ratios = samples.ratios(target.figure, target.over)
        ratio = statistics.median(ratios)
        missed += not target.met(ratio)
        beside = "" if target.over is None else f"{_number(samples.median(target.over))} {target.unit}"
        print(
            f"| {target.what} | {_number(samples.median(target.figure))} {target.unit} | {beside} | {_number(ratio)} | "
            f"{_number(min(ratios))} to {_number(max(ratios))} | {_bound(target)} | "
            f"{'yes' if target.met(ratio) else '**no**'} |"
        )
    return missed


def show_others(samples: Samples, targets: Iterable[Target] = TARGETS) -> None:
    """Print the figures that no target names."""
    named = {name for target in targets for name in (target.figure, target.over)}
    rest = [name for name in samples if name not in named]
    if rest:
        print("beside these:", "; ".join(f"{name} {_number(samples.median(name))}" for name in rest))


def _bound(target: Target) -> str:
    return f"≥ {target.least:g}" if target.least is not None else f"≤ {target.most:g}"


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
