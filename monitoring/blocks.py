"""Recent: counts of what was observed lately, in blocks that grow with age, so that "since then" can be counted."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from monitoring.errors import StateRefused
from monitoring.reference import Reference
from monitoring.window import P_VALUE_EDGES, Window

BLOCK: Final = 64
"""Observations of the newest blocks, at least."""
KEPT: Final = 32_768
"""Blocks older than this many observations are let go."""

_Counts = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Block:
    """Counts of consecutive observations: `begin` were made before, `segments` are (observations, novel) by name."""

    begin: int
    window: Window
    segments: Mapping[str, _Counts] = field(default_factory=dict)

    def __add__(self, later: "Block") -> "Block":
        names = {**self.segments, **later.segments}
        both = (self.segments, later.segments)
        added = {name: (_of(both, name, 0), _of(both, name, 1)) for name in names}
        return Block(self.begin, self.window + later.window, added)


class Recent:
    """Blocks, oldest first. Two neighbours become one as soon as they hold no more than all that came after them, so
    that there are about two for each doubling of age, and one is never longer than what follows it, but for one batch.
    """

    def __init__(self, reference: Reference) -> None:
        zeros = (0,) * len(reference.cells)
        self._empty = Window(reference.digest, 0, 0, zeros, zeros, (0,) * len(P_VALUE_EDGES))
        self._blocks: list[Block] = []

    def clear(self) -> None:
        """Forget everything."""
        self._blocks = []

    def add(self, batch: Window, before: int) -> None:
        """Count a batch; `before` observations were made before it."""
        plain = Window(batch.reference, batch.n, batch.novel, batch.cells, batch.novel_cells, batch.p_values)
        block = Block(before, plain, {name: (s.n, s.novel) for name, s in batch.segments.items()})
        if self._blocks and self._blocks[-1].window.n < BLOCK:
            block = self._blocks.pop() + block
        self._blocks.append(block)
        if block.window.n >= BLOCK:
            self._fold()

    def _fold(self) -> None:
        """Merge neighbours that are short beside what came after them, and let go what is old."""
        folded, newer = [self._blocks[-1]], 0
        for block in reversed(self._blocks[:-1]):
            if block.window.n + folded[-1].window.n <= newer:
                folded[-1] = block + folded[-1]
                continue
            newer += folded[-1].window.n
            if newer >= KEPT:
                break
            folded.append(block)
        self._blocks = folded[::-1]

    def suffixes(self) -> Iterator[Block]:
        """What was observed since the begin of each block, newest first."""
        for i in range(len(self._blocks) - 1, -1, -1):
            yield self._sum(self._blocks[i:])

    def since(self, observation: int) -> Block:
        """What was observed since then, as near as the blocks allow, and never less than the newest block."""
        later = [block for block in self._blocks if block.begin >= observation]
        return self._sum(later or self._blocks[-1:])

    def _sum(self, blocks: list[Block]) -> Block:
        return sum(blocks[1:], blocks[0]) if blocks else Block(0, self._empty)

    def to_json(self) -> list[list[Any]]:
        """The blocks as plain lists."""
        return [
            [b.begin, list(b.window.cells), list(b.window.novel_cells), list(b.window.p_values), dict(b.segments)]
            for b in self._blocks
        ]

    def read(self, data: Any) -> None:
        """Go on from what `to_json` gave.

        Raises:
            StateRefused: damaged, or of another reference.
        """
        try:
            self._blocks = [self._block(*row) for row in data]
        except (TypeError, ValueError, AttributeError) as error:
            raise StateRefused(f"not stored blocks ({type(error).__name__})") from error

    def _block(self, begin: Any, cells: Any, novel_cells: Any, p_values: Any, segments: Any) -> Block:
        window = Window.from_json(
            {
                "reference": self._empty.reference, "n": sum(cells), "novel": sum(novel_cells), "cells": cells,
                "novel_cells": novel_cells, "p_values": p_values,
            }
        )  # fmt: skip
        if len(window.cells) != len(self._empty.cells):
            raise StateRefused("stored blocks that do not fit this reference")
        return Block(int(begin), window, {str(name): (int(n), int(novel)) for name, (n, novel) in segments.items()})


def _of(both: tuple[Mapping[str, _Counts], Mapping[str, _Counts]], name: str, which: int) -> int:
    return sum(counts[name][which] for counts in both if name in counts)
