"""Everything a report is made of, read from a job's work folder and the registry."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from encoder.lora_manifest import LoraManifest
from encoder.manifest import sha256
from monitoring.recipe import Recipe
from registry import backbones, datasets
from training.contenders import FILES, candidate
from training.data import Corpus, GateItems, gate_items
from training.evaluation_document import FILE as EVALUATION
from training.problem import Vectors
from training.report.neighbourhoods import Neighbourhoods, neighbourhood_changes
from training.steps import JobContext

_LIBRARIES: Final = ("driftline", "numpy", "scipy", "faiss-cpu", "onnx", "onnxruntime", "torch")
_LORA_LIBRARIES: Final = ("transformers", "peft")


@dataclass(frozen=True, eq=False)
class Material:
    """What is known when a verdict has been reached.

    Attributes:
        dataset: name, revision, digest, kind, rows, labels, and what its quality report counts.
        parts: Rows of fit, select, gate, and how many of the gate were set aside.
        recipe: The resolved recipe. changed: fields in which the one that was asked for differs from the default.
        fit: The report of the fit (fit.json).
        evaluation: See `training.evaluation_document`.
        verdict: See `monitoring.gate.Verdict.to_json`.
        lineage: adapter, kind, job, backbone, parent, files of the artifact, libraries: names, numbers and digests.
        corpus: The dataset's texts and labels. items: what was judged of them.
        base, candidate: (n, d) float32 vectors of the distinct texts.
        neighbourhoods: How the candidate changes them.
    """

    dataset: Mapping[str, Any]
    parts: Mapping[str, int]
    recipe: Mapping[str, Any]
    changed: frozenset[str]
    fit: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    verdict: Mapping[str, Any]
    lineage: Mapping[str, Any]
    corpus: Corpus
    items: GateItems
    base: Vectors
    candidate: Vectors
    neighbourhoods: Neighbourhoods

    def subject(self, row: int) -> str:
        """The text of a row, or the anchor of a pair; rows count from 1."""
        return self.corpus.texts[int(self.corpus.subject[row - 1])]

    def answer(self, row: int | None) -> str:
        """What a row is found by: its text, or the positive of a pair. Empty for None."""
        if row is None:
            return ""
        column = self.corpus.positive if len(self.items.relevant) else self.corpus.subject
        return self.corpus.texts[int(column[row - 1])]


def gather(context: JobContext) -> Material:
    """Read what the steps up to the verdict left."""
    corpus, parts = context.corpus(), context.parts()
    items = gate_items(corpus, parts)
    (base, _), adapted = context.vectors(), candidate(context).texts
    usual = Recipe().to_dict()
    return Material(
        dataset=_dataset(context),
        parts=context.snapshot["rows"],
        recipe=context.recipe.to_dict(),
        changed=frozenset(name for name, value in context.job.recipe.items() if value != usual.get(name)),
        fit=context.folder.read_json("fit.json"),
        evaluation=context.folder.read_json(EVALUATION),
        verdict=context.folder.read_json("verdict.json"),
        lineage=_lineage(context),
        corpus=corpus,
        items=items,
        base=base,
        candidate=adapted,
        neighbourhoods=neighbourhood_changes(items, base, adapted),
    )


def _dataset(context: JobContext) -> dict[str, Any]:
    with context.registry.reading() as session:
        found = datasets.get(session, context.job.dataset, context.job.revision)
    report = found.report
    return {
        "name": found.name,
        "revision": found.revision,
        "digest": found.digest,
        "kind": found.kind.value,
        "rows": found.rows,
        "labels": found.labels,
        "repeated_rows": report["duplicates"]["extra_rows"],
        "conflicting_texts": report["conflicts"]["count"],
        "near_duplicate_rows": report["near_duplicates"]["rows"],
        "warnings": list(report["warnings"]),
    }


def _lineage(context: JobContext) -> dict[str, Any]:
    job, snapshot = context.job, context.snapshot
    with context.registry.reading() as session:
        names = {backbone.digest: backbone.name for backbone in backbones.all(session)}
    kind = context.kind
    libraries = _LIBRARIES + (_LORA_LIBRARIES if kind == LoraManifest.KIND else ())
    return {
        "adapter": job.adapter,
        "kind": kind,
        "job": job.id,
        "asked_at": job.created_at.isoformat(timespec="seconds"),
        "backbone": {"name": names.get(snapshot["backbone"]), "digest": snapshot["backbone"]},
        "parent": snapshot["champion"],
        "files": {name: sha256(context.folder.read(name)) for name in FILES[kind]},
        "libraries": {name: _version(name) for name in libraries},
    }


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
