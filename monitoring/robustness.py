"""What perturbed texts cost: a model's scores by kind and severity next to those of the texts as they are."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from monitoring.errors import VectorsRefused
from monitoring.quality import Scores
from monitoring.significance import Interval, resample


@dataclass(frozen=True, slots=True)
class Perturbed:
    """One kind at one severity: the mean score, and by how much it lies below the clean one."""

    kind: str
    severity: int
    score: float
    drop: Interval
    relative_drop: float


@dataclass(frozen=True, eq=False)
class Robustness:
    """How a model's score holds under perturbation.

    Attributes:
        clean: Mean score of the texts as they are.
        rows: Every kind and severity, in the order of kind and severity.
        items: (m,) each item's mean score over all kinds and severities, every kind with equal weight; this is what
            the gate compares between models.
    """

    clean: float
    rows: tuple[Perturbed, ...]
    items: Scores

    @property
    def score(self) -> float:
        """Mean score over kinds and severities."""
        return float(self.items.mean())

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        return {"clean": self.clean, "score": self.score, "rows": [asdict(row) for row in self.rows]}


def robustness(
    clean: ArrayLike,
    perturbed: Mapping[tuple[str, int], ArrayLike],
    clusters: ArrayLike | None = None,
    *,
    seed: int = 0,
    n: int = 2_000,
    confidence: float = 0.95,
) -> Robustness:
    """Compare per-item scores (m,) of clean texts with those of the same items under each (kind, severity).

    Raises:
        VectorsRefused: Nothing was perturbed, lengths differ, or a score is not finite.
    """
    plain = np.asarray(clean, dtype=np.float64)
    scored = {key: np.asarray(values, dtype=np.float64) for key, values in sorted(perturbed.items())}
    if not scored or any(values.shape != plain.shape for values in scored.values()):
        raise VectorsRefused("robustness needs scores of every item, clean and under at least one perturbation")
    rows = []
    for (kind, severity), values in scored.items():
        drop = resample(plain - values, clusters, seed=seed, n=n).interval(confidence)
        relative = drop.mean / float(plain.mean()) if plain.mean() > 0 else 0.0
        rows.append(Perturbed(kind, severity, float(values.mean()), drop, relative))
    kinds = sorted({kind for kind, _ in scored})
    by_kind = [np.mean([values for (of, _), values in scored.items() if of == kind], axis=0) for kind in kinds]
    return Robustness(float(plain.mean()), tuple(rows), np.asarray(np.mean(by_kind, axis=0), dtype=np.float64))
