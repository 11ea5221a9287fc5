"""Streams of real texts: row numbers of the corpus's table, quiet or with a change at a known item."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.drift.corpus import Corpus, Rows

FIT: Final = 6000
CALIBRATION: Final = 2000
REPLAY: Final = 1000
EARLIEST: Final = 200
LATEST: Final = 300
"""The change comes before an item drawn from this range, so that no method's windows happen to end on it."""
RAMP: Final = 2000
"""Items over which the ramp goes from nothing to its full share."""

Rng = np.random.Generator


@dataclass(frozen=True)
class Partition:
    """Disjoint rows of the Banking77 pool: what a reference is made of, and `traffic`, what arrives afterwards."""

    fit: Rows
    calibration: Rows
    replay: Rows
    traffic: Rows

    @classmethod
    def disjoint(cls, corpus: Corpus, seed: int) -> "Partition":
        """Parted at random: traffic is exchangeable with the calibration items, and every text of it is new."""
        order = np.random.default_rng(seed).permutation(corpus.pools["banking"])
        ends = np.cumsum([FIT, CALIBRATION, REPLAY])
        return cls(*np.split(order, ends))

    @classmethod
    def drawn(cls, corpus: Corpus, seed: int) -> "Partition":
        """Fit rows apart; calibration, replay and traffic are independent draws from one population, all the rest.

        Then a stream may be as long as one likes and is still exactly exchangeable with the calibration items.
        """
        rng = np.random.default_rng(seed)
        fit, rest = np.split(rng.permutation(corpus.pools["banking"]), [FIT])
        return cls(fit, rng.choice(rest, CALIBRATION), rng.choice(rest, REPLAY), rest)


@dataclass(frozen=True)
class Scenario:
    """One kind of change.

    Attributes:
        key: Name in files.
        words: Name in the table.
        after: Items drawn after the change, where a run without an alarm ends.
        draw: (rng, quiet rows (n,)) -> rows (n,) of the traffic after the change.
    """

    key: str
    words: str
    after: int
    draw: Callable[[Rng, Rows], Rows]


def scenarios(corpus: Corpus, traffic: Rows) -> list[Scenario]:
    """The kinds of change of the card, in its order."""
    foreign, commands = corpus.pools["out_of_scope"], corpus.pools["commands"]
    shares = [(0.01, 3000), (0.02, 2000), (0.05, 1000), (0.10, 600), (0.50, 300)]
    found = [
        Scenario(f"oos{round(100 * share)}", f"{share:.0%} out-of-scope", after, mixture(foreign, share))
        for share, after in shares
    ]
    intents = {label: traffic[corpus.labels[traffic] == label] for label in np.unique(corpus.labels[traffic])}
    return [
        *found,
        Scenario("commands5", "5% texts of another domain (commands)", 1000, mixture(commands, 0.05)),
        Scenario("ramp", f"ramp to 20% out-of-scope over {RAMP}", RAMP, _ramp(foreign, 0.20)),
        Scenario("mix", "30% of traffic on 5 of the 77 intents", 2000, _concentrated(list(intents.values()), 5, 0.30)),
        Scenario("typos", "typos in half of the texts", 1000, _misspelt(corpus, 0.50)),
    ]


def mixture(foreign: Rows, share: float) -> Callable[[Rng, Rows], Rows]:
    """Each item foreign with this probability."""
    return lambda rng, rows: np.where(rng.random(len(rows)) < share, rng.choice(foreign, len(rows)), rows)


def _ramp(foreign: Rows, last: float) -> Callable[[Rng, Rows], Rows]:
    def draw(rng: Rng, rows: Rows) -> Rows:
        share = last * np.minimum(1, np.arange(1, len(rows) + 1) / RAMP)
        return np.where(rng.random(len(rows)) < share, rng.choice(foreign, len(rows)), rows)

    return draw


def _concentrated(intents: list[Rows], few: int, share: float) -> Callable[[Rng, Rows], Rows]:
    def draw(rng: Rng, rows: Rows) -> Rows:
        chosen = np.concatenate([intents[at] for at in rng.choice(len(intents), few, replace=False)])
        return np.where(rng.random(len(rows)) < share, rng.choice(chosen, len(rows)), rows)

    return draw


def _misspelt(corpus: Corpus, share: float) -> Callable[[Rng, Rows], Rows]:
    shift = int(corpus.pools["typos"][0] - corpus.pools["banking"][0])
    return lambda rng, rows: np.where(rng.random(len(rows)) < share, rows + shift, rows)


def quiet(rng: Rng, traffic: Rows, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Streams (runs, items) of nothing but usual traffic."""
    return rng.choice(traffic, shape)


def changed(rng: Rng, traffic: Rows, scenario: Scenario, runs: int) -> tuple[list[Rows], list[int]]:
    """Streams with a change, and the number of quiet items before it in each."""
    starts = [int(start) for start in rng.integers(EARLIEST, LATEST, runs)]
    streams = [
        np.concatenate([before, scenario.draw(rng, rng.choice(traffic, scenario.after))])
        for before in (rng.choice(traffic, start) for start in starts)
    ]
    return streams, starts
