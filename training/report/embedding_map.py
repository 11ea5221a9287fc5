"""Where judged rows lie before and after: one plane for both, so that what moved in the picture moved in the space."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from training.data import GateItems
from training.fit_measures import some
from training.problem import Indices, Vectors

MAX_ROWS: Final = 1_200
MAX_PAIRS: Final = 60
MAX_GROUPS: Final = 6

Plane = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EmbeddingMap:
    """Judged rows in a plane.

    Attributes:
        base, candidate: (n, 2) the same rows in both models.
        marks: (n,) which of `names` a row has as its label, -1 for any other.
        names: Labels that stand out; empty for pairs.
        links: (p, 2) rows of questions and of their answers; empty for labelled rows.
        explained: Share of the variance of the rows the plane was fitted to that lies in it, in base and candidate.
    """

    base: Plane
    candidate: Plane
    marks: Indices
    names: tuple[str, ...]
    links: Indices
    explained: tuple[float, float]


def map_labels(items: GateItems, base: Vectors, candidate: Vectors, outstanding: Sequence[str]) -> EmbeddingMap | None:
    """Judged rows with a few labels that stand out, on whose rows the plane is fitted.

    Args:
        items: The judged rows.
        base, candidate: (n, d) float32 vectors of the dataset's distinct texts.
        outstanding: Labels worth looking at, most interesting first; filled up with the most frequent ones.

    Returns:
        None where there are fewer than three judged rows.
    """
    labels = np.array(items.query_labels, dtype=object).astype(str)
    if len(labels) < 3:
        return None
    counts = dict(zip(*np.unique(labels, return_counts=True), strict=True))
    frequent = sorted(counts, key=lambda name: (-counts[name], name))
    names = tuple(dict.fromkeys([*(str(name) for name in outstanding if str(name) in counts), *frequent]))[:MAX_GROUPS]
    shown = some(len(labels), MAX_ROWS)
    marks = np.array([names.index(name) if name in names else -1 for name in labels[shown]], dtype=np.int64)
    present = [number for number in range(len(names)) if (marks == number).any()]
    marks = np.array([present.index(mark) if mark in present else -1 for mark in marks], dtype=np.int64)
    rows = items.queries[shown]
    return _planes(base[rows], candidate[rows], marks >= 0, marks, tuple(names[n] for n in present), _NO_LINKS)


def map_pairs(items: GateItems, base: Vectors, candidate: Vectors) -> EmbeddingMap | None:
    """Judged questions and one answer of each; None where there are fewer than two."""
    asked = [place for place in some(len(items.queries), MAX_PAIRS).tolist() if items.relevant[place]]
    if len(asked) < 2:
        return None
    answers = [items.index[min(items.relevant[place])] for place in asked]
    rows = np.concatenate([items.queries[asked], np.array(answers, dtype=np.int64)])
    links = np.stack([np.arange(len(asked)), np.arange(len(asked)) + len(asked)], axis=1)
    marks = np.full(len(rows), -1, dtype=np.int64)
    return _planes(base[rows], candidate[rows], np.ones(len(rows), dtype=np.bool_), marks, (), links)


_NO_LINKS: Final = np.zeros((0, 2), dtype=np.int64)


def _planes(
    base: Vectors,
    candidate: Vectors,
    fitted: npt.NDArray[np.bool_],
    marks: Indices,
    names: tuple[str, ...],
    links: Indices,
) -> EmbeddingMap:
    """Project both with the two directions of most variance within the models.

    Principal components of the sum of both covariances, each about its own mean: a common shift of all vectors, which
    changes no neighbourhood, would otherwise be the first component.
    """
    centred = [part[fitted] - part[fitted].mean(axis=0) for part in (base.astype(np.float64), candidate)]
    _, _, directions = np.linalg.svd(np.concatenate(centred), full_matrices=False)
    axes = directions[:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    variances = [float((part**2).sum()) for part in centred]
    explained = [
        float(((part @ axes.T) ** 2).sum()) / max(v, 1e-12) for part, v in zip(centred, variances, strict=True)
    ]
    middle = base.astype(np.float64).mean(axis=0)
    planes = [(part.astype(np.float64) - middle) @ axes.T for part in (base, candidate)]
    return EmbeddingMap(planes[0], planes[1], marks, names, links, (explained[0], explained[1]))
