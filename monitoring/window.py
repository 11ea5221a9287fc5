"""Window: integer counts of what was observed, bound to one reference; a batch, and what batches of replicas add to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from operator import add
from typing import Any, Final

import numpy as np

from monitoring.arrays import IntArray
from monitoring.errors import ReferenceMismatch, StateRefused, VectorsRefused
from monitoring.reference import Reference, Scored

P_VALUE_EDGES: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class SegmentCounts:
    """Counts of one segment's part of a window: observations, novel ones, p-values by P_VALUE_EDGES."""

    n: int
    novel: int
    p_values: tuple[int, ...]

    def __add__(self, other: "SegmentCounts") -> "SegmentCounts":
        return SegmentCounts(self.n + other.n, self.novel + other.novel, _sum(self.p_values, other.p_values))


@dataclass(frozen=True, slots=True)
class Window:
    """Counts of n observations. All are integers, so addition is exactly associative and commutative.

    cells and novel_cells: observations and novel observations of each cell, K entries.
    p_values: how many p-values fell at or below each edge of P_VALUE_EDGES and above the one before.
    features: sums of the random features of all n, in units of 1 / `features.UNIT`; empty where they were not computed.
    segments: the counts of each named segment; observations without a segment are in none.
    """

    reference: str
    n: int
    novel: int
    cells: tuple[int, ...]
    novel_cells: tuple[int, ...]
    p_values: tuple[int, ...]
    features: tuple[int, ...] = ()
    segments: Mapping[str, SegmentCounts] = field(default_factory=dict)

    @classmethod
    def empty(cls, reference: Reference) -> "Window":
        """The window of no observations."""
        zeros = (0,) * len(reference.cells)
        features = (0,) * (0 if reference.features is None else reference.features.size)
        return cls(reference.digest, 0, 0, zeros, zeros, (0,) * len(P_VALUE_EDGES), features)

    @classmethod
    def of(cls, reference: Reference, scored: Scored, segments: Sequence[str | None] | None = None) -> "Window":
        """The window of scored vectors.

        Args:
            segments: The segment of each vector, None for those without one; None when no vector has one.

        Raises:
            VectorsRefused: Another number of segments than of vectors.
        """
        if segments is not None and len(segments) != len(scored):
            raise VectorsRefused(f"{len(segments)} segments for {len(scored)} vectors")
        if not len(scored):
            return cls.empty(reference)
        k = len(reference.cells)
        novel = scored.ranks <= reference.novel_rank
        buckets = np.searchsorted(P_VALUE_EDGES, scored.p_values, side="left")
        return cls(
            reference=reference.digest,
            n=len(scored),
            novel=int(novel.sum()),
            cells=_counts(scored.cells, k),
            novel_cells=_counts(scored.cells[novel], k),
            p_values=_counts(buckets, len(P_VALUE_EDGES)),
            features=scored.feature_sums,
            segments={} if segments is None else _by_segment(segments, novel, buckets),
        )

    def __add__(self, other: "Window") -> "Window":
        """Merge two windows of one reference. Features are kept where both have them.

        Raises:
            ReferenceMismatch: they were counted against different references.
        """
        if self.reference != other.reference:
            raise ReferenceMismatch(self.reference, other.reference)
        return Window(
            self.reference,
            self.n + other.n,
            self.novel + other.novel,
            _sum(self.cells, other.cells),
            _sum(self.novel_cells, other.novel_cells),
            _sum(self.p_values, other.p_values),
            _features(self, other),
            _merged(self.segments, other.segments),
        )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary of strings and integers."""
        return {
            "reference": self.reference, "n": self.n, "novel": self.novel, "cells": list(self.cells),
            "novel_cells": list(self.novel_cells), "p_values": list(self.p_values), "features": list(self.features),
            "segments": {name: [s.n, s.novel, *s.p_values] for name, s in sorted(self.segments.items())},
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Window":
        """Read `to_json` back; windows of older releases have neither features nor segments.

        Raises:
            StateRefused: fields that are missing, of another type, or that contradict each other.
        """
        try:
            window = cls(
                str(data["reference"]), int(data["n"]), int(data["novel"]), _ints(data["cells"]),
                _ints(data["novel_cells"]), _ints(data["p_values"]), _ints(data.get("features", ())),
                {str(name): _segment(counts) for name, counts in data.get("segments", {}).items()},
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateRefused(f"not a stored window ({type(error).__name__})") from error
        sound = (
            sum(window.cells) == sum(window.p_values) == window.n
            and sum(window.novel_cells) == window.novel
            and len(window.cells) == len(window.novel_cells)
            and len(window.p_values) == len(P_VALUE_EDGES)
            and min((*window.cells, *window.novel_cells, *window.p_values)) >= 0
            and all(_sound(s) for s in window.segments.values())
            and sum(s.n for s in window.segments.values()) <= window.n
        )
        if not sound:
            raise StateRefused("a stored window whose counts contradict each other")
        return window


def _features(a: Window, b: Window) -> tuple[int, ...]:
    """The sum of both windows' features; none where one counted observations without them."""
    if not a.n or not b.n:
        return b.features if not a.n else a.features
    return _sum(a.features, b.features) if len(a.features) == len(b.features) else ()


def _merged(a: Mapping[str, SegmentCounts], b: Mapping[str, SegmentCounts]) -> Mapping[str, SegmentCounts]:
    if not a or not b:
        return a or b
    return {name: a[name] + b[name] if name in a and name in b else (a.get(name) or b[name]) for name in {**a, **b}}


def _by_segment(segments: Sequence[str | None], novel: np.ndarray, buckets: IntArray) -> Mapping[str, SegmentCounts]:
    names = sorted({name for name in segments if name is not None})
    if not names:
        return {}
    number = {name: i for i, name in enumerate(names)}
    which = np.array([-1 if name is None else number[name] for name in segments])
    found = {}
    for name, i in number.items():
        own = which == i
        p_values = _counts(buckets[own], len(P_VALUE_EDGES))
        found[name] = SegmentCounts(int(own.sum()), int(novel[own].sum()), p_values)
    return found


def _segment(counts: Any) -> SegmentCounts:
    n, novel, *p_values = _ints(counts)
    return SegmentCounts(n, novel, tuple(p_values))


def _sound(counts: SegmentCounts) -> bool:
    return (
        len(counts.p_values) == len(P_VALUE_EDGES)
        and min(counts.p_values) >= 0
        and sum(counts.p_values) == counts.n
        and 0 <= counts.novel <= counts.n
    )


def _counts(values: np.ndarray, length: int) -> tuple[int, ...]:
    return tuple(np.bincount(values, minlength=length).tolist())


def _sum(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(starmap(add, zip(a, b, strict=True)))


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(map(int, values))
