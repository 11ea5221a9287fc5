"""The quality report of a dataset: what its owner should know before fitting on it. Rows are named by number only."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from registry.near import near_duplicates, normal_form
from registry.row import Row, RowKind
from registry.splits import split_with

LABELS = 1_000
"""Labels counted by name in a report, the most frequent first."""
EXAMPLES = 20
"""Examples listed of each finding; all are counted."""


def quality_report(rows: Sequence[Row], kind: RowKind) -> dict[str, Any]:
    """Counts, duplicates, contradictions and warnings as a JSON object.

    Keys: `rows`, `kind`, `label_count`, `labels` (label -> rows),
    `characters` (min, median, p95, max, mean of the texts' lengths),
    `duplicates` and `duplicates_ignoring_case_and_punctuation` (groups, extra_rows, examples: lists of row numbers),
    `conflicts` (count, examples: the same text under several labels), `doubted_labels` (rows with a confidence below
    1), `near_duplicates` (groups, rows, largest,
    examples), `splits` (rows of fit, select, gate; `near_duplicates_between`: count and pairs of row numbers),
    `warnings` (sentences). Row numbers count from 1.
    """
    texts = [row.subject for row in rows]
    near = near_duplicates(texts)
    splits = split_with(rows, near.groups, seed=0)
    labels = Counter(row.label for row in rows if row.label is not None)
    # A pair is repeated when both its sides are.
    sides = [tuple(side for side in (row.text, row.anchor, row.positive, row.negative) if side) for row in rows]
    report: dict[str, Any] = {
        "rows": len(rows),
        "kind": kind.value,
        "label_count": len(labels),
        "labels": dict(labels.most_common(LABELS)),
        "characters": _lengths(texts),
        "duplicates": _repeats(sides),
        "duplicates_ignoring_case_and_punctuation": _repeats([tuple(map(normal_form, parts)) for parts in sides]),
        "conflicts": _conflicts(rows),
        "doubted_labels": sum(row.weak for row in rows),
        "near_duplicates": _groups(near.groups),
        "splits": {
            "fit": len(splits.fit),
            "select": len(splits.select),
            "gate": len(splits.gate),
            "near_duplicates_between": _between(near.pairs, splits.places(len(rows))),
        },
    }
    report["warnings"] = _warnings(report, labels)
    return report


def _lengths(texts: Sequence[str]) -> dict[str, float]:
    lengths = np.array([len(text) for text in texts])
    return {
        "min": int(lengths.min()),
        "median": float(np.median(lengths)),
        "p95": float(np.percentile(lengths, 95)),
        "max": int(lengths.max()),
        "mean": round(float(lengths.mean()), 1),
    }


def _repeats(keys: Iterable[Hashable]) -> dict[str, Any]:
    places: defaultdict[Hashable, list[int]] = defaultdict(list)
    for number, key in enumerate(keys, 1):
        places[key].append(number)
    groups = [numbers for numbers in places.values() if len(numbers) > 1]
    return {
        "groups": len(groups),
        "extra_rows": sum(len(numbers) - 1 for numbers in groups),
        "examples": [numbers[:EXAMPLES] for numbers in groups[:EXAMPLES]],
    }


def _conflicts(rows: Sequence[Row]) -> dict[str, Any]:
    """The same text, case and punctuation aside, under two labels or more."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        if row.label is not None:
            places[normal_form(row.subject)].append(at)
    clashes = [found for found in places.values() if len({rows[at].label for at in found}) > 1]
    examples = [
        {"rows": [at + 1 for at in found[:EXAMPLES]], "labels": sorted({str(rows[at].label) for at in found})}
        for found in clashes[:EXAMPLES]
    ]
    return {"count": len(clashes), "examples": examples}


def _groups(groups: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, Any]:
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = np.diff(np.append(starts, len(order)))
    several = [order[start : start + size] + 1 for start, size in zip(starts, sizes, strict=True) if size > 1]
    return {
        "groups": len(several),
        "rows": int(sum(len(numbers) for numbers in several)),
        "largest": int(sizes.max()),
        "examples": [numbers[:EXAMPLES].tolist() for numbers in several[:EXAMPLES]],
    }


def _between(pairs: np.ndarray[Any, np.dtype[np.int64]], places: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, Any]:
    used = (places[pairs] >= 0).all(axis=1)
    crossing = pairs[used & (places[pairs[:, 0]] != places[pairs[:, 1]])]
    return {"count": len(crossing), "pairs": (crossing[:EXAMPLES] + 1).tolist()}


def _warnings(report: dict[str, Any], labels: Counter[str]) -> list[str]:
    rows = report["rows"]
    found = []
    if report["duplicates"]["extra_rows"]:
        found.append(f"{report['duplicates']['extra_rows']} of {rows} rows repeat another row word for word")
    if report["conflicts"]["count"]:
        found.append(f"texts that stand under more than one label: {report['conflicts']['count']}")
    single = sum(1 for count in labels.values() if count == 1)
    if single:
        found.append(f"{single} of {len(labels)} labels have a single row: it can be fitted but not judged")
    few = sum(1 for count in labels.values() if 1 < count < 5)
    if few:
        found.append(f"{few} of {len(labels)} labels have fewer than 5 rows: their figures will be rough")
    if labels and max(labels.values()) > 20 * min(labels.values()):
        found.append(f"the biggest label has {max(labels.values())} rows, the smallest {min(labels.values())}")
    near = report["near_duplicates"]
    if near["rows"] > rows // 5:
        found.append(
            f"{near['rows']} of {rows} rows are near-duplicates of another: there is less in here than it seems"
        )
    between = report["splits"]["near_duplicates_between"]["count"]
    if between:
        found.append(
            f"{between} pairs of near-duplicates lie in different splits: too many rows resemble each other to keep "
            "them together, so the gate will look a little too kind"
        )
    if not report["splits"]["select"] or not report["splits"]["gate"]:
        found.append("too few different rows to set any aside for judging: add rows or labels")
    return found
