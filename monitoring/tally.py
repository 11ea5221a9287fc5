"""Tally: what was measured of a candidate beside the live version, as integers that add up over replicas."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from monitoring.arrays import IntArray
from monitoring.errors import StateRefused
from monitoring.window import P_VALUE_EDGES

UNIT: Final = 1_000_000
"""A measured value of 1.0 is stored as this many."""

_NO_P: Final = (0,) * len(P_VALUE_EDGES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts and sums; every field is an integer or a tuple of them, so addition is exact in any order.

    Attributes:
        observations: Requests that both versions computed.
        texts: Texts of them that were looked up in both references.
        rows_n, rows: Requests whose neighbours were compared by row, and the sum of their disagreement in millionths.
        labels_n, labels: The same for the labels of the neighbours.
        votes_n, votes: The same for the commonest label among them.
        score_live, score_candidate: Sums of the cosine of each text with its nearest item, in millionths.
        p_live, p_candidate: Novelty p-values at or below each edge of P_VALUE_EDGES and above the one before.
        attempts, failures: Requests that the candidate computed or failed to.
        timed, slow: Requests timed under both, and those that took longer with the candidate than the rules allow.
        live_us, candidate_us: Microseconds that the timed requests took, or would have taken, with each version.
        served: Requests that callers got from the candidate.
    """

    observations: int = 0
    texts: int = 0
    rows_n: int = 0
    rows: int = 0
    labels_n: int = 0
    labels: int = 0
    votes_n: int = 0
    votes: int = 0
    score_live: int = 0
    score_candidate: int = 0
    p_live: tuple[int, ...] = _NO_P
    p_candidate: tuple[int, ...] = _NO_P
    attempts: int = 0
    failures: int = 0
    timed: int = 0
    slow: int = 0
    live_us: int = 0
    candidate_us: int = 0
    served: int = 0

    @classmethod
    def of(
        cls,
        rows: NDArray[np.float64] | None,
        labels: NDArray[np.float64] | None,
        votes: NDArray[np.float64] | None,
        scores: tuple[NDArray[np.float32], NDArray[np.float32]],
        p_values: tuple[IntArray, IntArray],
    ) -> "Tally":
        """The tally of compared requests.

        Args:
            rows, labels, votes: Disagreement of each request in [0, 1], None where it cannot be measured.
            scores: Of each text the cosine with its nearest item (n,), live and candidate.
            p_values: Counts by P_VALUE_EDGES, live and candidate.
        """
        measured: dict[str, int] = {}
        for name, values in (("rows", rows), ("labels", labels), ("votes", votes)):
            if values is not None:
                measured |= {f"{name}_n": len(values), name: int(np.rint(values * UNIT).sum())}
        live, candidate = (int(np.rint(values.astype(np.float64) * UNIT).sum()) for values in scores)
        p_live, p_candidate = (tuple(int(count) for count in counts) for counts in p_values)
        return cls(
            texts=len(scores[0]),
            score_live=live,
            score_candidate=candidate,
            p_live=p_live,
            p_candidate=p_candidate,
            **measured,
        )

    def __add__(self, other: "Tally") -> "Tally":
        """The tally of both; what replicas counted is added like this."""
        summed: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            summed[field.name] = (
                tuple(a + b for a, b in zip(mine, theirs, strict=True)) if isinstance(mine, tuple) else mine + theirs
            )
        return Tally(**summed)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary of integers and lists of them."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Tally":
        """Read `to_json` back; a field that is missing counts 0, as a version before it would have written.

        Raises:
            StateRefused: Something that is no count, a negative one, or counts that contradict each other.
        """
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            given = data.get(field.name, field.default)
            listed = isinstance(given, list | tuple)
            numbers = list(given) if listed else [given]
            right = all(type(number) is int for number in numbers) and listed == isinstance(field.default, tuple)
            signed = field.name.startswith("score")  # a cosine may be negative
            if not right or (not signed and min(numbers, default=0) < 0):
                raise StateRefused("not a stored tally")
            values[field.name] = tuple(numbers) if listed else given
        tally = cls(**values)
        sound = (
            all(total <= n * UNIT for total, n in ((tally.rows, tally.rows_n), (tally.labels, tally.labels_n)))
            and tally.votes <= tally.votes_n * UNIT
            and tally.failures <= tally.attempts
            and tally.slow <= tally.timed
            and len(tally.p_live) == len(tally.p_candidate) == len(P_VALUE_EDGES)
        )
        if not sound:
            raise StateRefused("a stored tally whose counts contradict each other")
        return tally
