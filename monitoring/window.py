"""Window: integer counts of what was observed, bound to one reference; windows of replicas merge by addition."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from monitoring.errors import ReferenceMismatch, StateRefused
from monitoring.reference import Reference, Scored

P_VALUE_EDGES: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Window:
    """Counts of n observations. All are integers, so addition is exactly associative and commutative.

    cells and novel_cells: observations and novel observations of each cell, K entries.
    p_values: how many p-values fell at or below each edge of P_VALUE_EDGES and above the one before.
    """

    reference: str
    n: int
    novel: int
    cells: tuple[int, ...]
    novel_cells: tuple[int, ...]
    p_values: tuple[int, ...]

    @classmethod
    def empty(cls, reference: Reference) -> "Window":
        """The window of no observations."""
        zeros = (0,) * len(reference.cells)
        return cls(reference.digest, 0, 0, zeros, zeros, (0,) * len(P_VALUE_EDGES))

    @classmethod
    def of(cls, reference: Reference, scored: Scored) -> "Window":
        """The window of scored vectors."""
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
        )

    def __add__(self, other: "Window") -> "Window":
        """Merge two windows of one reference.

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
        )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary of strings and integers."""
        return {
            "reference": self.reference, "n": self.n, "novel": self.novel, "cells": list(self.cells),
            "novel_cells": list(self.novel_cells), "p_values": list(self.p_values),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Window":
        """Read `to_json` back.

        Raises:
            StateRefused: fields that are missing, of another type, or that contradict each other.
        """
        try:
            window = cls(
                str(data["reference"]), int(data["n"]), int(data["novel"]), _ints(data["cells"]),
                _ints(data["novel_cells"]), _ints(data["p_values"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise StateRefused(f"not a stored window ({type(error).__name__})") from error
        sound = (
            sum(window.cells) == sum(window.p_values) == window.n
            and sum(window.novel_cells) == window.novel
            and len(window.cells) == len(window.novel_cells)
            and len(window.p_values) == len(P_VALUE_EDGES)
            and min((*window.cells, *window.novel_cells, *window.p_values)) >= 0
        )
        if not sound:
            raise StateRefused("a stored window whose counts contradict each other")
        return window


def _counts(values: np.ndarray, length: int) -> tuple[int, ...]:
    return tuple(int(c) for c in np.bincount(values, minlength=length))


def _sum(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in values)
