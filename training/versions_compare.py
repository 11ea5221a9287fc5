"""Any two models compared on frozen probes: versions, backbones, or one of each, as they are served on this machine.

The probes are the held-out rows of one revision of a dataset, and the rows to be found among are its others; a revision
never changes and the parts depend on its rows alone, so the same question has the same probes for ever.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from encoder.encoder import Encoder
from monitoring.versions_drift import MAX_PROBES, VersionsDrift, compare_versions
from registry import backbones, datasets, versions
from registry.datasets import DatasetRevision
from registry.errors import NotFound
from registry.names import parse_model
from registry.registry import Registry
from registry.row import RowKind
from registry.splits import split
from training.data import Corpus
from training.errors import DataRefused
from training.problem import Indices, Vectors
from training.served import encode_with

SEED: Final = 0
Tell = Callable[[str], None]
"""Called with what is being done."""


@dataclass(frozen=True, slots=True)
class Model:
    """A version, or the bare backbone where `kind` is None.

    Attributes:
        name: Such as `banking@3`.
        digest: Of the version; empty for a backbone.
        backbone: Digest of what it stands on.
        dataset: What a version was fitted on, such as `banking@2`; None for a backbone.
    """

    name: str
    kind: str | None
    digest: str
    backbone: str
    dataset: str | None


@dataclass(frozen=True, slots=True)
class Compared:
    """What was found between two models on a dataset's rows."""

    old: Model
    new: Model
    dataset: DatasetRevision
    found: VersionsDrift

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        told = {"name": self.dataset.name, "revision": self.dataset.revision, "digest": self.dataset.digest}
        return {"old": self.old.name, "new": self.new.name, "dataset": told, **self.found.to_json()}


def model_of(registry: Registry, name: str) -> Model:
    """The model of a name as requests use it: `banking@3`, `banking` for its live version, or a backbone's.

    Raises:
        NotFound: There is no such model, or the adapter has no live version.
        InvalidName: It is no name of a model.
    """
    asked, number = parse_model(name)
    with registry.reading() as session:
        for backbone in backbones.all(session):
            if backbone.name == asked and number is None:
                return Model(backbone.name, None, "", backbone.digest, None)
        if number is None:
            version = versions.live(session, asked)
            if version is None:
                raise NotFound("live version of", asked)
        else:
            version = versions.get(session, asked, number)
    return Model(version.name, version.kind, version.digest, version.backbone, version.dataset)


def compare_models(
    registry: Registry,
    old: Model,
    new: Model,
    open_encoder: Callable[[str], Encoder],
    *,
    dataset: tuple[str, int | None] | None = None,
    rows: int = 10_000,
    tell: Tell = lambda words: None,
) -> Compared:
    """Encode probes and rows by both models, and compare.

    Args:
        open_encoder: Opens a backbone by its digest, as it is served.
        dataset: Name and revision; None for that of the new model, or else of the old one.
        rows: Most rows to be found among.
        tell: Told of progress.

    Raises:
        DataRefused: No dataset is named and neither model has one, or the models are one and the same.
        NotFound: There is no such dataset.
        VectorsRefused: The dataset has too few rows.
        ArtifactRefused: A version's artifact is damaged or does not reproduce its probes.
    """
    if (old.digest, old.backbone) == (new.digest, new.backbone):
        raise DataRefused(f"{old.name} and {new.name} are one and the same; name two different models")
    named = new.dataset or old.dataset
    if dataset is None and named is None:
        raise DataRefused("two backbones have no dataset of their own; name one: --dataset NAME")
    wanted = dataset or parse_model(named or "")
    with registry.reading() as session:
        found = datasets.get(session, *wanted)
    stored = datasets.load_rows(registry.artifacts, found)
    parts = split(stored, seed=SEED)
    corpus = Corpus.of(stored, RowKind(found.kind))
    held_out = np.union1d(parts.select, parts.gate)
    index, asked, marks = _asked(corpus, parts.fit, held_out, parts.clusters)
    rng = np.random.default_rng(SEED)
    index = index[_some(rng, len(index), rows)]
    kept = _some(rng, len(asked), MAX_PROBES)
    asked, marks = asked[kept], marks[kept]
    texts = [corpus.texts[number] for number in [*index, *asked]]
    opened: dict[str, Encoder] = {}
    vectors: list[Vectors] = []
    for model in (old, new):
        if model.backbone not in opened:
            tell("loading the backbone")
            opened[model.backbone] = open_encoder(model.backbone)
        tell(f"encoding {len(texts)} texts with {model.name}")
        encode = encode_with(opened[model.backbone], registry.fetch, model.kind, model.digest)
        vectors.append(encode(texts))
    tell("comparing")
    (old_rows, old_probes), (new_rows, new_probes) = ((v[: len(index)], v[len(index) :]) for v in vectors)
    drift = compare_versions(old_rows, new_rows, old_probes, new_probes, marks, seed=SEED)
    return Compared(old, new, found, drift)


def _asked(corpus: Corpus, fit: Indices, held_out: Indices, clusters: Indices) -> tuple[Indices, Indices, Indices]:
    """Text numbers to be found among, those asked with, and the cluster of each of these. A text is asked with once."""
    index = np.unique(corpus.positive if corpus.kind is RowKind.PAIRS else corpus.subject[fit])
    asked, first = np.unique(corpus.subject[held_out], return_index=True)
    fresh = ~np.isin(asked, index)
    return index, asked[fresh], clusters[held_out][first][fresh]


def _some(rng: np.random.Generator, n: int, most: int) -> Indices:
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False)).astype(np.int64)
