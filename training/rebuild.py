"""A reference built anew for a version, when somebody asks for it: never by itself.

A reference that follows the traffic on its own would learn whatever happens and alarm at nothing. This one is built
from the rows the version was fitted on, as a retrain builds it, and where the world has changed for good without the
version being worse for it, calibrated on newer rows that the version was not fitted on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from encoder.encoder import Encoder
from monitoring.reference import MIN_CALIBRATION, Reference
from registry import datasets, references
from registry.datasets import DatasetRevision
from registry.errors import NotFound
from registry.references import Rebuild
from registry.registry import Registry
from registry.row import RowKind
from registry.splits import Shares, split
from registry.versions import Version
from training.data import Corpus, Parts, part
from training.errors import DataRefused
from training.problem import Indices
from training.reference_build import Material, Newer, reference_of
from training.rejudge_rows import Contestant, seen_rows
from training.served import encode_with
from training.views import view_corpus

Tell = Callable[[str], None]
"""Called with what is being done."""
NEWER_SHARES: Final[Shares] = (0.4, 0.3, 0.3)
"""Of newer rows: two fifths join the index, the rest calibrates and is replayed."""


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """What was built and how it is entered."""

    version: Version
    reference: Reference
    entered: Rebuild

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "version": self.version.name,
            "reference": self.entered.after,
            "before": self.entered.before,
            "number": self.entered.number,
            "fit": len(self.reference.fit),
            "calibration": self.reference.n_cal,
            "replay": len(self.reference.replay),
            "cells": len(self.reference.cells),
            "calibrated": self.reference.calibrated,
            "why_not": self.reference.why_not,
            **self.entered.detail,
        }


def rebuild(
    registry: Registry,
    version: Version,
    encoder: Encoder,
    *,
    newer: tuple[str, int | None] | None = None,
    unseen: bool = False,
    by: str,
    tell: Tell = lambda words: None,
) -> Rebuilt:
    """Build a version's reference anew, store it, and bind it to the version; its monitor begins afresh.

    Args:
        registry: Holds version and datasets.
        version: Any that was published.
        encoder: Its backbone, as it is served.
        newer: Name and revision of a dataset whose rows calibrate in place of the older held-out ones.
        unseen: The caller's word that a version which does not say what it was fitted on has not seen `newer`.
        by: Who asks, for the journal.
        tell: Told of progress.

    Raises:
        DataRefused: The rows that it was fitted on are not in this registry (and no newer ones are named), or too few
            newer rows are unseen.
        NotFound: There is no such dataset.
        ArtifactRefused: The version's artifact is damaged or does not reproduce its probes.
        Conflict: The reference was replaced meanwhile, or the new one is the same.
    """
    contestant = Contestant.of(version, registry.fetch)
    judged = contestant.judging()
    fitted = _fitted(registry, contestant, judged.seed, needed=newer is None)
    later = None if newer is None else _later(registry, contestant, newer, unseen=unseen, seed=judged.seed)
    encode = encode_with(encoder, registry.fetch, version.kind, version.digest)
    material = added = None
    if fitted is not None:
        _, corpus, parts = fitted
        tell(f"encoding {len(corpus.texts)} texts that it was fitted on or judged by")
        material = Material(corpus, parts, encode(corpus.texts))
    if later is not None:
        revision, added_corpus, index, held_out, clusters = later
        name = f"{revision.name}@{revision.revision}"
        tell(f"encoding {len(added_corpus.texts)} newer texts")
        added = Newer(added_corpus, index, held_out, clusters, encode(added_corpus.texts), name)
    tell("building the reference")
    facts = {name: _of(of[0]) for name, of in (("dataset", fitted), ("newer", later)) if of is not None}
    built = reference_of(
        material,
        added,
        seed=judged.seed,
        refit=judged.refit,
        info={"adapter": version.adapter, "job": version.job_id, **facts},
    )
    digest = registry.store(built.to_bytes())
    with registry.writing() as session:
        entered = references.replace(
            session, version.adapter, version.number, digest, expected=version.reference, by=by, detail=facts
        )
    return Rebuilt(version, built, entered)


def _fitted(
    registry: Registry, contestant: Contestant, seed: int, *, needed: bool
) -> tuple[DatasetRevision, Corpus, Parts] | None:
    """The rows the version was fitted on, parted as its fit parted them; None where they are not known here."""
    try:
        with registry.reading() as session:
            named = contestant.dataset
            dataset = datasets.get(session, str(named["name"]), int(named["revision"]))
        if dataset.digest != named["digest"]:
            raise NotFound("dataset", f"{dataset.name}@{dataset.revision} with the rows of {contestant.name}")
    except (KeyError, NotFound):
        if not needed:
            return None
        raise DataRefused(
            f"the rows that {contestant.name} was fitted on are not in this registry, as an import's are not; name "
            "rows that it was not fitted on: --newer NAME"
        ) from None
    rows = datasets.load_rows(registry.artifacts, dataset)
    parts = part(rows, seed)
    kind = RowKind(dataset.kind)
    corpus = view_corpus(rows, parts, seed) if kind is RowKind.UNLABELLED else Corpus.of(rows, kind)
    return dataset, corpus, parts


def _later(
    registry: Registry, contestant: Contestant, newer: tuple[str, int | None], *, unseen: bool, seed: int
) -> tuple[DatasetRevision, Corpus, Indices, Indices, Indices]:
    """Newer rows: their dataset and corpus, those for the index, those held out, and the clusters of all."""
    if contestant.fitted is None and not unseen:
        raise DataRefused(
            f"{contestant.name} does not say which rows it was fitted on, as an import does not; --unseen is your word "
            "that it has none of the newer ones"
        )
    with registry.reading() as session:
        dataset = datasets.get(session, *newer)
    rows = datasets.load_rows(registry.artifacts, dataset)
    found = split(rows, seed=seed, shares=NEWER_SHARES)
    parts = Parts(found.fit, found.select, found.gate, found.gate, found.clusters, np.empty(0, np.int64))
    seen = seen_rows(parts, rows, [contestant])
    index = np.setdiff1d(found.fit, seen)
    held_out = np.setdiff1d(np.union1d(found.select, found.gate), seen)
    if len(held_out) < MIN_CALIBRATION:
        raise DataRefused(
            f"{dataset.name}@{dataset.revision} holds {len(held_out)} rows to calibrate on that {contestant.name} was "
            f"not fitted on; at least {MIN_CALIBRATION} are needed"
        )
    return dataset, Corpus.of(rows, RowKind(dataset.kind)), index, held_out, found.clusters


def _of(dataset: DatasetRevision) -> dict[str, Any]:
    kind = RowKind(dataset.kind).value
    return {"name": dataset.name, "revision": dataset.revision, "digest": dataset.digest, "kind": kind}
