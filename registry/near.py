"""Near-duplicates among many short texts: found by MinHash, verified exactly, grouped without endless chains.

Texts are compared by the sets of their character 4-grams after folding case, accents' composition, punctuation and
spaces. MinHash and its banding are Broder, "On the resemblance and containment of documents" (1997) and Leskovec,
Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4. 16 bands of 5 hashes find a pair of resemblance 0.8 with
probability 0.998.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

SIMILAR = 0.8
"""Jaccard resemblance of the 4-gram sets from which two texts count as near-duplicates."""
_SHINGLE = 4
_BANDS, _HASHES = 16, 5
_PRIME = np.uint64((1 << 31) - 1)
# Bigger buckets are boilerplate: every text is compared with the first and with its nearest followers only.
_BUCKET = 50
_FOLLOWERS = 8
# What is worked on at once: characters while hashing, pairs while verifying.
_BLOCK = 2_000_000
_PAIRS_AT_ONCE = 50_000


@dataclass(frozen=True, slots=True)
class Near:
    """`groups` (n,) int64: each text's group, from 0; `pairs` (m, 2) int64: near-duplicates that tie the groups."""

    groups: NDArray[np.int64]
    pairs: NDArray[np.int64]


def normal_form(text: str) -> str:
    """The text with case, punctuation and runs of spaces folded; what stays equal is a duplicate for a reader."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded)) or " ".join(folded.split())


def near_duplicates(texts: Sequence[str], *, largest: int | None = None) -> Near:
    """Group n texts so that near-duplicates share a group.

    Resemblance is not transitive: long chains can tie unlike texts together. A group grows to at most `largest` texts
    (default 1 % of n, at least 20), its closest pairs joined first; only repetitions of one text may make it bigger.
    """
    if not texts:
        return Near(np.zeros(0, np.int64), np.zeros((0, 2), np.int64))
    cap = max(20, len(texts) // 100) if largest is None else largest
    numbers: dict[str, int] = {}
    of_text = np.array([numbers.setdefault(normal_form(text), len(numbers)) for text in texts], np.int64)
    forms = list(numbers)
    weights = np.bincount(of_text, minlength=len(forms))
    pairs, alike = _verified(forms)
    groups = _grouped(len(forms), pairs, alike, weights, cap)
    # Pairs of texts: the first of either form, and each repetition with the first of its form.
    first = np.full(len(forms), -1, np.int64)
    first[of_text[::-1]] = np.arange(len(texts), dtype=np.int64)[::-1]
    repeated = np.flatnonzero(first[of_text] != np.arange(len(texts)))
    repeats = np.stack([first[of_text[repeated]], repeated], axis=1)
    return Near(_renumbered(groups[of_text]), np.concatenate([first[pairs], repeats]))


def near_duplicate_groups(texts: Sequence[str]) -> NDArray[np.int64]:
    """The group of each text, (n,) int64 from 0 in the order of first appearance. See `near_duplicates`."""
    return near_duplicates(texts).groups


def _grouped(
    count: int, pairs: NDArray[np.int64], alike: NDArray[np.float64], weights: NDArray[np.int64], cap: int
) -> NDArray[np.int64]:
    """Connected components; those heavier than `cap` are built again from their closest pairs on, never beyond it."""
    groups = _components(count, pairs)
    too_big = np.bincount(groups, weights=weights)[groups] > cap
    inside = too_big[pairs[:, 0]]
    if not inside.any():
        return groups
    joined = _joined(pairs[inside], alike[inside], weights, cap)
    return _components(count, np.concatenate([pairs[~inside], joined]))


def _joined(
    pairs: NDArray[np.int64], alike: NDArray[np.float64], weights: NDArray[np.int64], cap: int
) -> NDArray[np.int64]:
    """The pairs (m, 2) that tie groups of at most `cap`, taken in the order of resemblance (Kruskal's algorithm)."""
    parent: dict[int, int] = {}
    weight: dict[int, int] = {}

    def root(of: int) -> int:
        while (above := parent.setdefault(of, of)) != of:
            parent[of] = of = parent[above]
        return of

    kept = []
    for at in np.argsort(-alike, kind="stable").tolist():
        one, two = root(int(pairs[at, 0])), root(int(pairs[at, 1]))
        if one == two:
            continue
        together = weight.get(one, int(weights[one])) + weight.get(two, int(weights[two]))
        if together <= cap:
            parent[two] = one
            weight[one] = together
            kept.append(at)
    return pairs[kept]


def _components(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _verified(forms: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pairs (m, 2) of forms whose exact resemblance reaches SIMILAR, and that resemblance (m,)."""
    pairs = _candidates(np.concatenate([_signatures(*_shingles(block)) for block in _blocks(forms)]))
    # Only texts that are in a pair are looked at again.
    involved, places = np.unique(pairs, return_inverse=True)
    if not len(involved):
        return pairs, np.zeros(0)
    shingles, starts = _shingles([forms[at] for at in involved])
    _, columns = np.unique(shingles, return_inverse=True)
    bounds = np.append(starts, len(shingles))
    table = csr_array((np.ones(len(shingles), np.int32), columns, bounds), shape=(len(involved), columns.max() + 1))
    table.sum_duplicates()
    table.data[:] = 1
    sizes = np.diff(table.indptr)
    alike = np.zeros(len(pairs))
    for at in range(0, len(pairs), _PAIRS_AT_ONCE):
        left, right = places.reshape(-1, 2)[at : at + _PAIRS_AT_ONCE].T
        common = np.asarray(table[left].multiply(table[right]).sum(axis=1)).ravel()
        alike[at : at + _PAIRS_AT_ONCE] = common / (sizes[left] + sizes[right] - common)
    near = alike >= SIMILAR
    return pairs[near], alike[near]


def _blocks(forms: Sequence[str]) -> Iterator[Sequence[str]]:
    """The forms in runs of about `_BLOCK` characters, so that memory does not grow with the dataset."""
    start, length = 0, 0
    for at, form in enumerate(forms):
        length += len(form)
        if length >= _BLOCK:
            yield forms[start : at + 1]
            start, length = at + 1, 0
    if start < len(forms):
        yield forms[start:]


def _shingles(forms: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of all 4-grams, text after text, and where each text's begin. Every text has at least one."""
    # Spaces around make the ends of a text count, and give the shortest text a whole shingle.
    padded = [f" {form} ".ljust(_SHINGLE) for form in forms]
    lengths = np.array([len(text) for text in padded], np.int64)
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    rolled = np.zeros(len(codes) - _SHINGLE + 1, np.uint64)
    for offset in range(_SHINGLE):
        rolled = rolled * np.uint64(0x100_0193) + codes[offset : offset + len(rolled)] + np.uint64(1)
        rolled ^= rolled >> np.uint64(29)
    ends = np.cumsum(lengths)
    inside = np.ones(len(rolled), bool)
    for back in range(1, _SHINGLE):
        # Windows that would reach from one text into the next.
        inside[ends[:-1] - back] = False
    counts = lengths - _SHINGLE + 1
    return _mixed(rolled[inside]), np.cumsum(counts) - counts


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread bits, so that what follows may use any of them (the finaliser of MurmurHash3)."""
    values = values ^ (values >> np.uint64(33))
    values = values * np.uint64(0xFF51AFD7ED558CCD)
    values = values ^ (values >> np.uint64(33))
    values = values * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def _signatures(shingles: NDArray[np.uint64], starts: NDArray[np.int64]) -> NDArray[np.uint32]:
    """MinHash signatures (n, bands * hashes): the least of (a x + b) mod p over each text's shingles."""
    random = np.random.default_rng(20_260_101)
    factors = random.integers(1, int(_PRIME), (2, _BANDS * _HASHES)).astype(np.uint64)
    small = shingles % _PRIME
    signatures = np.empty((len(starts), _BANDS * _HASHES), np.uint32)
    for at in range(_BANDS * _HASHES):
        signatures[:, at] = np.minimum.reduceat((small * factors[0, at] + factors[1, at]) % _PRIME, starts)
    return signatures


def _candidates(signatures: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Pairs (m, 2), each once, of texts that share all hashes of some band."""
    count = len(signatures)
    found: NDArray[np.int64] = np.zeros(0, np.int64)
    for band in range(_BANDS):
        keys = signatures[:, band * _HASHES].astype(np.uint64)
        for at in range(1, _HASHES):
            keys = _mixed(keys * np.uint64(0x9E3779B97F4A7C15) + signatures[:, band * _HASHES + at])
        order = np.argsort(keys, kind="stable").astype(np.int64)
        found = np.union1d(found, _bucket_pairs(keys[order], order, count))
    return np.stack([found // count, found % count], axis=1)


def _bucket_pairs(keys: NDArray[np.uint64], order: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Pairs within runs of equal keys, as `smaller * count + larger`."""
    begins = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    sizes = np.diff(np.append(begins, len(keys)))
    size_at = np.repeat(sizes, sizes)
    begin_at = np.repeat(begins, sizes)
    position = np.arange(len(keys))
    reach = np.where(size_at <= _BUCKET, _BUCKET, _FOLLOWERS)
    found = []
    for offset in range(1, min(_BUCKET, int(sizes.max(initial=1)))):
        left = np.flatnonzero((position - begin_at + offset < size_at) & (offset <= reach))
        found.append((order[left], order[left + offset]))
    others = np.flatnonzero((size_at > _BUCKET) & (position > begin_at))
    found.append((order[begin_at[others]], order[others]))
    one = np.concatenate([pair[0] for pair in found])
    two = np.concatenate([pair[1] for pair in found])
    return np.unique(np.minimum(one, two) * count + np.maximum(one, two))


def _renumbered(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same groups numbered from 0 in the order of first appearance."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
