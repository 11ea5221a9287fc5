"""Kept texts as a person uses them: examples of what moved, and the list to label next; for API and commands."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from monitoring.explain import Explainer, Explanation
from monitoring.informative import Pick, informative
from monitoring.reference import Reference
from registry import retained
from registry.registry import Registry
from registry.retained import Retained

CONSIDERED: Final = 2048
"""The newest kept texts among which examples and rows to label are chosen."""
NONE_KEPT: Final = (
    "no text of this version is kept: texts are kept only for API keys made with `driftline key create --retain-texts "
    "DAYS`, or set with `driftline key retain`"
)


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """Texts of one version, the one sent last first, and their vectors (n, d) float32 of unit length."""

    rows: Sequence[Retained]
    vectors: NDArray[np.float32]


def kept(registry: Registry, adapter: str, version: int, dimension: int) -> Kept:
    """The newest CONSIDERED texts of a version.

    Raises:
        RegistryError: The registry cannot be read.
    """
    with registry.reading() as session:
        found = retained.newest(session, adapter, version, limit=CONSIDERED)
    rows = [row for row in found if len(row.vector) == 2 * dimension]
    stored = np.frombuffer(b"".join(row.vector for row in rows), np.float16).reshape(len(rows), dimension)
    vectors = stored.astype(np.float32)
    return Kept(rows, vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6))


def examples(reference: Reference, newest: NDArray[np.float32], texts: Kept, each: int) -> dict[str, Any]:
    """The explanation of the newest evidence (n, d), and up to `each` of the newest kept texts of every change."""
    explainer = Explainer(reference)
    found = explainer.explain(newest)
    places = explainer.belongs(texts.vectors, found.changes) if len(texts.rows) else []
    p_values = reference.novelty(texts.vectors) if len(texts.rows) else np.zeros(0)
    shown: list[list[dict[str, Any]]] = [[] for _ in found.changes]
    for row, place, p_value in zip(texts.rows, places, p_values, strict=True):
        if place is not None and len(shown[place]) < each:
            shown[place].append({"text": row.text, "at": row.at, "seen": row.seen, "p_value": float(p_value)})
    return {**_plain(found, shown), "kept": len(texts.rows), "why_none": None if texts.rows else NONE_KEPT}


def to_label(reference: Reference, texts: Kept, limit: int) -> list[dict[str, Any]]:
    """The most informative kept texts, best first, each with its reasons in figures and in words."""
    explainer = Explainer(reference)
    picks = informative(reference, texts.vectors, limit)
    closest = explainer.nearest(texts.vectors[[pick.row for pick in picks]]) if picks else []
    return [
        _item(texts.rows[pick.row], pick, near[0], rank)
        for rank, (pick, near) in enumerate(zip(picks, closest, strict=True), 1)
    ]


def as_jsonl(items: Sequence[dict[str, Any]]) -> bytes:
    """One object a line: the text, and `why`; as it stands a dataset of the kind unlabelled."""
    return b"".join(orjson.dumps({"text": item["text"], "why": item["why"]}) + b"\n" for item in items)


def as_csv(items: Sequence[dict[str, Any]]) -> bytes:
    """The columns text and why; a column `label` makes it a labelled dataset."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["text", "why"])
    writer.writerows([item["text"], item["why"]] for item in items)
    return out.getvalue().encode()


def _plain(found: Explanation, shown: list[list[dict[str, Any]]]) -> dict[str, Any]:
    document = found.to_json()
    for change, texts in zip(document["changes"], shown, strict=True):
        change["examples"] = texts
    return document


def _item(row: Retained, pick: Pick, near: tuple[str, float], rank: int) -> dict[str, Any]:
    name, cosine = near
    why = (
        f"p-value {pick.p_value:.2g} against what was fitted; {pick.alike} kept texts much like it; nearest known: "
        f"{name} ({cosine:.2f})"
    )
    return {
        "rank": rank, "text": row.text, "why": why, "score": pick.score, "novelty": pick.novelty,
        "density": pick.density, "diversity": pick.diversity, "p_value": pick.p_value, "alike": pick.alike,
        "nearest": name, "nearest_cosine": cosine, "seen": row.seen, "at": row.at, "expires_at": row.expires_at,
    }  # fmt: skip
