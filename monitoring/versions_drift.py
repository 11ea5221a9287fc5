"""How differently two versions see the same frozen texts: what a new version, or a new library, moves.

Each version encodes the same probes and the same rows to be found. Lists of neighbours are compared within each
version's own space; clouds are compared by CKA and by the best rotation; and queries of the new version are put to the
index of the old one, as they are and rotated back, which is what happens to an index that nobody builds anew.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.alignment import resampled_cka, rotation
from monitoring.arrays import IntArray, as_matrix
from monitoring.errors import VectorsRefused
from monitoring.quality import Scores, nearest_rows
from monitoring.significance import Interval, resample_all

MAX_PROBES: Final = 2_000
MAX_ROWS: Final = 50_000
CKA_PROBES: Final = 1_000
"""Probes whose clouds are compared at most: the time goes with their square, and the interval is narrow by then."""
MIN_PROBES: Final = 20
MIN_ROWS: Final = 40
"""Rows from which on ten neighbours say something."""
DEEP_ROWS: Final = 200
"""Rows from which on fifty neighbours do."""
NEAR: Final = 10
DEEP: Final = 50
PERSISTENCE: Final = 0.9
RESAMPLES: Final = 1_000
MEASURES: Final = (
    "jaccard_at_10",
    "jaccard_at_50",
    "rbo",
    "cka",
    "procrustes_r2",
    "mixed_recall_at_10",
    "rotated_recall_at_10",
)
"""In the order in which they are told."""
KEPT_OVERLAP: Final = 0.6
KEPT_RECALL: Final = 0.95


@dataclass(frozen=True, slots=True)
class VersionsDrift:
    """What was found, by name of the measure; 1 means that nothing changed.

    jaccard_at_10, jaccard_at_50: rows that both versions find among the nearest, as a share of those that either finds.
    rbo: rank-biased overlap of the 50 nearest, which weighs the first places most. cka: debiased linear CKA of the
    probes. procrustes_r2: 1 - |x Q - y|^2 / |y|^2 over the probes, the rotation Q fitted on the rows.
    mixed_recall_at_10, rotated_recall_at_10: share of the new version's ten nearest that its queries find in the old
    version's index, as they are and turned back by Q. `jaccard_at_50` and `rbo` are missing where there are fewer than
    DEEP_ROWS rows, and `cka` where the probes of a version are too much alike for it.
    """

    probes: int
    rows: int
    measures: Mapping[str, Interval]

    @property
    def alike(self) -> bool:
        """Whether neighbours are kept so well that callers will hardly notice: the overlap's lower bound says so."""
        return self.measures["jaccard_at_10"].low >= KEPT_OVERLAP

    @property
    def index_serves(self) -> bool:
        """Whether an index of the old version answers the new version's queries once they are rotated back."""
        return self.measures["rotated_recall_at_10"].low >= KEPT_RECALL

    @property
    def words(self) -> str:
        """What to do with indexes of the old version's vectors, in a sentence."""
        kept = self.measures["rotated_recall_at_10"]
        low, high = (f"{100 * bound:.1f}" for bound in (kept.low, kept.high))
        found = f"{100 * kept.mean:.1f} % ({low} to {high}) of the new version's ten nearest"
        if self.measures["mixed_recall_at_10"].low >= KEPT_RECALL:
            return "An index of the old version's vectors goes on answering the new version's queries as it is."
        if self.index_serves:
            return f"An index of the old version's vectors finds {found} once queries are rotated: it may be kept so."
        return f"Encode indexed texts anew: an index of the old version's vectors finds {found}, even with a rotation."

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "probes": self.probes,
            "rows": self.rows,
            "measures": {name: asdict(self.measures[name]) for name in MEASURES if name in self.measures},
            "alike": self.alike,
            "index_serves": self.index_serves,
            "words": self.words,
        }


def compare_versions(
    old_rows: ArrayLike,
    new_rows: ArrayLike,
    old_probes: ArrayLike,
    new_probes: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    seed: int = 0,
) -> VersionsDrift:
    """Compare two versions by their unit vectors of the same rows and the same probes, none of which is a row.

    Args:
        old_rows, new_rows: (r, d) and (r, e); more than MAX_ROWS are sampled by seed.
        old_probes, new_probes: (p, d) and (p, e); more than MAX_PROBES are sampled.
        clusters: (p,) marks of probes that share a source, which are drawn together.

    Raises:
        VectorsRefused: Fewer than MIN_PROBES probes or MIN_ROWS rows, or sides that do not fit together.
    """
    rows, probes = _sides(old_rows, new_rows), _sides(old_probes, new_probes)
    if rows[0].shape[1] != probes[0].shape[1] or len(probes[0]) < MIN_PROBES or len(rows[0]) < MIN_ROWS:
        raise VectorsRefused(f"versions are compared on at least {MIN_PROBES} probes among {MIN_ROWS} rows")
    rng = np.random.default_rng(seed)
    some, asked = _some(rng, len(rows[0]), MAX_ROWS), _some(rng, len(probes[0]), MAX_PROBES)
    (old, new), (old_asked, new_asked) = (rows[0][some], rows[1][some]), (probes[0][asked], probes[1][asked])
    marks = None if clusters is None else np.asarray(clusters)[asked]
    depth = DEEP if len(old) >= DEEP_ROWS else NEAR
    before, after = nearest_rows(old, old_asked, depth)[1], nearest_rows(new, new_asked, depth)[1]
    turn = rotation(old, new)
    columns: dict[str, ArrayLike] = {"jaccard_at_10": jaccard(before[:, :NEAR], after[:, :NEAR])}
    if depth == DEEP:
        columns |= {"jaccard_at_50": jaccard(before, after), "rbo": rank_biased_overlap(before, after)}
    columns["procrustes_r2"] = 1 - _residuals(old_asked @ turn, new_asked) / _squares(new_asked).mean()
    for name, queries in (("mixed_recall_at_10", new_asked), ("rotated_recall_at_10", new_asked @ turn.T)):
        columns[name] = _shared(nearest_rows(old, queries, NEAR)[1], after[:, :NEAR]) / NEAR
    found = {name: of.interval() for name, of in resample_all(columns, marks, seed=seed, n=RESAMPLES).items()}
    few = _some(rng, len(asked), CKA_PROBES)
    with contextlib.suppress(VectorsRefused):  # a cloud without a spread
        several = None if marks is None else marks[few]
        clouds = resampled_cka(old_asked[few], new_asked[few], several, seed=seed, n=RESAMPLES)
        found["cka"] = clouds.interval()
    return VersionsDrift(len(asked), len(some), {name: found[name] for name in MEASURES if name in found})


def jaccard(a: ArrayLike, b: ArrayLike) -> Scores:
    """Of two lists (n, k) of k different rows each, the rows in both as a share of the rows in either, (n,)."""
    first, second = np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64)
    both = _shared(first, second)
    return np.asarray(both / (first.shape[1] + second.shape[1] - both), dtype=np.float64)


def rank_biased_overlap(a: ArrayLike, b: ArrayLike, p: float = PERSISTENCE) -> Scores:
    """Rank-biased overlap (n,) of two lists (n, k) of different rows, extrapolated beyond the k-th place.

    With X_d rows in common among the first d: X_k / k p^k + (1 - p) / p sum_d X_d / d p^d. Equal lists give 1, lists
    without a common row 0. Webber, Moffat and Zobel, ACM TOIS 28 (2010), section 4.3, for lists of one length.

    Raises:
        VectorsRefused: Lists of different shapes, or p outside (0, 1).
    """
    first, second = np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64)
    if first.shape != second.shape or first.ndim != 2 or not 0 < p < 1:
        raise VectorsRefused("rank-biased overlap needs two lists of one length each, and p in (0, 1)")
    n, k = first.shape
    # A row that stands at places i and j of the two lists is in common from depth max(i, j) on.
    met = np.zeros((n, k))
    for place in range(k):
        row, other = np.nonzero(first[:, place, None] == second)
        np.add.at(met, (row, np.maximum(place, other)), 1.0)
    depths = np.arange(1, k + 1)
    agreement = np.cumsum(met, axis=1) / depths
    weights = (1 - p) / p * p**depths
    return np.asarray(agreement @ weights + agreement[:, -1] * p**k, dtype=np.float64)


def _shared(a: IntArray, b: IntArray) -> IntArray:
    """How many rows both lists (n, k) hold, (n,)."""
    counts = np.zeros(len(a), dtype=np.int64)
    for column in a.T:
        counts += (column[:, None] == b).any(axis=1)
    return counts


def _residuals(x: NDArray[np.float32], y: NDArray[np.float32]) -> Scores:
    return _squares(x.astype(np.float64) - y)


def _squares(x: NDArray[Any]) -> Scores:
    return np.asarray((x.astype(np.float64) ** 2).sum(axis=1), dtype=np.float64)


def _sides(old: ArrayLike, new: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both sides in one dimension: zeros are added to the narrower, which changes none of its cosines."""
    first, second = as_matrix(old), as_matrix(new)
    if len(first) != len(second):
        raise VectorsRefused("both versions must have one vector for each text")
    wide = max(first.shape[1], second.shape[1])
    return _widened(first, wide), _widened(second, wide)


def _widened(vectors: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    return np.ascontiguousarray(np.pad(vectors, ((0, 0), (0, width - vectors.shape[1]))))


def _some(rng: np.random.Generator, n: int, most: int) -> IntArray:
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False)).astype(np.int64)
