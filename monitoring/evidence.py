"""Evidence: what the bets have won, gathered over batches so that a drift may begin at any time (Shiryaev-Roberts).

For one bet with batch factors E_1, E_2, ... R <- E (R + n), n the batch's observations. While nothing has changed
E[E | past] <= 1, so R minus the observations so far is a supermartingale, and so is any average of several such R with
fixed weights. The first time T the average reaches A therefore has E[T] >= A: the stated run length, without any
assumption on the shape of the data and for all bets together. (Shin, Ramdas & Rinaldo, E-detectors, 2024; Pollak 1985.)
Two things are asked for: n is chosen without regard to what the batch's observations are, and R is never rounded up.

Beside R each bet keeps a CUSUM, M <- max(M, 1) E: the observation at which it last was below 1 estimates the begin of
the change.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from monitoring.bets import MAX_SEGMENTS, Bets
from monitoring.errors import StateRefused
from monitoring.window import SegmentCounts, Window

Vector = NDArray[np.float64]

OTHER: Final = "other"
"""The segment that later segments share when MAX_SEGMENTS are known."""
NONE: Final = -700.0
"""log R of no evidence: e^-700 adds nothing to anything."""
_DECIMALS: Final = 1e6


@dataclass(frozen=True, slots=True)
class Part:
    """One detector's evidence: its weighted log sum, its weight, and when its strongest bet sees the change begin.

    kind: "novelty", "cell" or "segment". cell, segment: of which.
    """

    kind: str
    weighted: float
    weight: float
    begin: int
    cell: int | None = None
    segment: str | None = None

    @property
    def log(self) -> float:
        """Log of the detector's own average R."""
        return self.weighted - float(np.log(self.weight))


class _Wealth:
    """log R, log M and the begin of each of some bets; arrays of one shape."""

    def __init__(self, shape: tuple[int, ...], begin: int) -> None:
        self.log_r = np.full(shape, NONE)
        self.log_m = np.zeros(shape)
        self.begin = np.full(shape, begin, dtype=np.int64)

    def grow(self, factor: Vector, n: int, before: int) -> None:
        """One batch of n observations with these log factors; `before` observations came before it."""
        self.log_r = _down(factor + np.logaddexp(self.log_r, np.log(n)))
        self.begin = np.where(self.log_m <= 0, before, self.begin)
        self.log_m = _down(np.maximum(self.log_m, 0) + factor)

    def to_json(self) -> list[list[float]]:
        return [self.log_r.ravel().tolist(), self.log_m.ravel().tolist(), self.begin.ravel().tolist()]

    def read(self, data: Any) -> None:
        shape = self.log_r.shape
        log_r, log_m = (np.array(row, dtype=np.float64).reshape(shape) for row in data[:2])
        if not (np.isfinite(log_r).all() and np.isfinite(log_m).all()):
            raise ValueError("evidence that is no number")
        self.log_r, self.log_m = log_r, log_m
        self.begin = np.array(data[2], dtype=np.int64).reshape(shape)


class Evidence:
    """The evidence of all bets on one stream. All of it is zero at first and after `reset`."""

    def __init__(self, bets: Bets, observations: int = 0) -> None:
        self._bets = bets
        self.reset(observations)

    def reset(self, observations: int) -> None:
        """Forget everything; `observations` were made so far."""
        self._novelty = _Wealth(self._bets.novelty_weights.shape, observations)
        self._cells = _Wealth(self._bets.cell_weights.shape, observations)
        self._segments: dict[str, _Wealth] = {}

    def placed(self, batch: Window) -> Window:
        """The batch with the segments for which there is no place left counted together as OTHER."""
        known = set(self._segments) - {OTHER}
        found: dict[str, SegmentCounts] = {}
        for name, counts in sorted(batch.segments.items()):
            if name != OTHER and (name in known or len(known) < MAX_SEGMENTS):
                known.add(name)
                found[name] = counts
            else:
                found[OTHER] = found[OTHER] + counts if OTHER in found else counts
        return replace(batch, segments=found) if found else batch

    def add(self, batch: Window, before: int) -> None:
        """Count a batch that was `placed`; `before` observations were made before it."""
        if not batch.n:
            return
        bets = self._bets
        self._novelty.grow(bets.novelty @ np.array(batch.p_values, dtype=np.float64), batch.n, before)
        counts = np.array(batch.cells, dtype=np.float64)[:, None]
        self._cells.grow(counts * bets.inside + (batch.n - counts) * bets.outside, batch.n, before)
        for name, own in batch.segments.items():
            if own.n:
                wealth = self._segments.setdefault(name, _Wealth(bets.segment_weights.shape, before))
                wealth.grow(bets.segment @ np.array(own.p_values, dtype=np.float64), own.n, before)

    @property
    def log_total(self) -> float:
        """Log of the weighted sum of all R: what is held against the stated run length."""
        bets = self._bets
        segments = [_log_sum(w.log_r, bets.segment_weights) for w in self._segments.values()]
        parts = [_log_sum(self._novelty.log_r, bets.novelty_weights), _log_sum(self._cells.log_r, bets.cell_weights)]
        return float(np.logaddexp.reduce([*parts, *segments]))

    def parts(self) -> Iterator[Part]:
        """Every detector's evidence."""
        bets = self._bets
        yield _part("novelty", self._novelty.log_r, bets.novelty_weights, self._novelty.begin)
        for j in range(len(bets.cell_weights)):
            yield _part("cell", self._cells.log_r[j], bets.cell_weights[j], self._cells.begin[j], cell=j)
        for name, wealth in self._segments.items():
            yield _part("segment", wealth.log_r, bets.segment_weights, wealth.begin, segment=name)

    def to_json(self) -> dict[str, Any]:
        return {
            "novelty": self._novelty.to_json(),
            "cells": self._cells.to_json(),
            "segments": {name: wealth.to_json() for name, wealth in self._segments.items()},
        }

    def read(self, data: Mapping[str, Any]) -> None:
        """Go on from what `to_json` gave.

        Raises:
            StateRefused: damaged, or of other bets than these.
        """
        try:
            self._novelty.read(data["novelty"])
            self._cells.read(data["cells"])
            for name, kept in data["segments"].items():
                wealth = _Wealth(self._bets.segment_weights.shape, 0)
                wealth.read(kept)
                self._segments[str(name)] = wealth
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise StateRefused(f"not stored evidence ({type(error).__name__})") from error


def _part(kind: str, log_r: Vector, weights: Vector, begin: NDArray[np.int64], **which: Any) -> Part:
    strongest = int((log_r + np.log(weights)).argmax())
    return Part(kind, _log_sum(log_r, weights), float(weights.sum()), int(begin[strongest]), **which)


def _log_sum(log_r: Vector, weights: Vector) -> float:
    """Log of the weighted sum of R."""
    return float(np.logaddexp.reduce(log_r + np.log(weights), axis=None))


def _down(logs: Vector) -> Vector:
    """Rounded down: short in a stored state, and never more evidence than there is."""
    return np.asarray(np.maximum(np.floor(logs * _DECIMALS) / _DECIMALS, NONE))
