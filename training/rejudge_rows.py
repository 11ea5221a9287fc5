"""Which rows a stored version can be judged on once more: held-out rows that neither it nor its rival was fitted on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from encoder.errors import ArtifactRefused
from encoder.lora_manifest import LoraManifest
from encoder.manifest import Fetch, HeadManifest, load_manifest_bytes
from monitoring.recipe import Recipe
from registry import datasets
from registry.datasets import DatasetRevision
from registry.registry import Registry
from registry.row import Row, RowKind
from registry.splits import Shares, split
from registry.versions import Version
from training.data import MIN_FIT_ROWS, Corpus, Parts, part
from training.errors import DataRefused
from training.fitted import Fingerprints, fitted_by, is_lora, without_fitted
from training.problem import Indices
from training.views import view_corpus

SHARES: Final[Mapping[RowKind, Shares]] = {
    RowKind.LABELLED: (0.4, 0.1, 0.5),
    RowKind.PAIRS: (0.1, 0.1, 0.8),
    RowKind.UNLABELLED: (0.1, 0.1, 0.8),
}
"""How a dataset that nobody parted for a fit is parted. Labels are judged by a row's neighbours, so that half of the
rows are kept as neighbours; pairs are looked for among all positives, whatever part they are in."""
_JUDGING: Final = ("seed", "refit", "gate")
_NONE: Final[Fingerprints] = np.empty(0, np.uint64)


@dataclass(frozen=True, eq=False)
class Contestant:
    """A stored version as its manifest tells of it.

    Attributes:
        name: Such as banking@3.
        kind: "head" or "lora".
        digest: Of its manifest.
        backbone: Digest of the backbone it stands on.
        recipe, dataset: As in the manifest.
        fitted: Fingerprints of the rows it was fitted on; None where it does not say, as an import does not.
    """

    name: str
    kind: str
    digest: str
    backbone: str
    recipe: Mapping[str, Any]
    dataset: Mapping[str, Any]
    fitted: Fingerprints | None

    @classmethod
    def of(cls, version: Version, fetch: Fetch) -> "Contestant":
        """Read a version's manifest and its list of fitted rows.

        Raises:
            ArtifactRefused: The manifest is damaged, or names another backbone than the registry.
            DataRefused: The list of fitted rows cannot be read.
        """
        data = load_manifest_bytes(version.digest, fetch)
        manifest = (LoraManifest if is_lora(data) else HeadManifest).from_bytes(data)
        if manifest.backbone != version.backbone:
            raise ArtifactRefused(f"{version.name} stands on another backbone than the registry says")
        try:
            fitted = fitted_by(version.digest, fetch)
        except DataRefused as error:
            raise DataRefused(f"the list of rows that {version.name} was fitted on cannot be read") from error
        return cls(
            version.name,
            manifest.KIND,
            version.digest,
            version.backbone,
            manifest.recipe,
            manifest.dataset,
            fitted,
        )

    def judging(self) -> Recipe:
        """The recipe it is judged under: seed, refit and gate of its own, for the rest the defaults.

        Raises:
            RecipeRefused: One of them is out of range.
        """
        return Recipe.from_mapping({name: self.recipe[name] for name in _JUDGING if name in self.recipe})


@dataclass(frozen=True, eq=False)
class Ground:
    """The rows of a question.

    Attributes:
        dataset: The revision they belong to.
        rows: All of them.
        corpus: Their texts.
        parts: `judged` are judged; labels are compared with `fit` and calibrated on `select`.
        seen: Row numbers, ascending, of those that a contestant was fitted on, and of whatever resembles them.
        vouched: Names of contestants that do not say what they were fitted on; the caller's word is that it was none
            of these rows.
    """

    dataset: DatasetRevision
    rows: list[Row]
    corpus: Corpus
    parts: Parts
    seen: Indices
    vouched: tuple[str, ...] = ()

    @property
    def left_out(self) -> int:
        """Rows that would be judged, had no contestant been fitted on them."""
        return len(self.parts.gate) - len(self.parts.judged)


def own_ground(registry: Registry, contestants: Sequence[Contestant]) -> Ground:
    """The gate rows of the first contestant's own dataset, parted as its fit parted them.

    Raises:
        DataRefused: A contestant does not say what it was fitted on, no row is left, or the dataset is another one
            than the manifest names.
        NotFound: The dataset is not in this registry.
    """
    candidate = contestants[0]
    if silent := _silent(contestants):
        raise DataRefused(
            f"{silent[0].name} does not say which rows it was fitted on, as an import does not, so that no row is "
            "known to be held out; judge it on a dataset that it was not fitted on: --dataset NAME --unseen"
        )
    with registry.reading() as session:
        dataset = datasets.get(session, str(candidate.dataset["name"]), int(candidate.dataset["revision"]))
    if dataset.digest != candidate.dataset["digest"]:
        raise DataRefused(
            f"{candidate.name} was fitted on other rows than {dataset.name}@{dataset.revision} has in this registry; "
            "name a dataset to judge on: --dataset NAME"
        )
    rows = datasets.load_rows(registry.artifacts, dataset)
    seed = candidate.judging().seed
    parts = part(rows, seed)
    seen = seen_rows(parts, rows, contestants)
    return _ground(dataset, rows, replace(parts, judged=np.setdiff1d(parts.gate, seen)), seen, seed)


def other_ground(
    registry: Registry, contestants: Sequence[Contestant], name: str, revision: int | None, *, unseen: bool
) -> Ground:
    """Rows of a named dataset, the newest revision where none is given, that no contestant was fitted on.

    `unseen` is the caller's word that contestants which do not say what they were fitted on were not fitted on these.

    Raises:
        DataRefused: A contestant does not say what it was fitted on and nobody vouches for it, or its manifest says
            that it was this dataset; or too few rows are left.
        NotFound: There is no such dataset.
    """
    silent = _silent(contestants)
    if silent and not unseen:
        raise DataRefused(
            f"{silent[0].name} does not say which rows it was fitted on, as an import does not; --unseen is your word "
            f"that {name} has none of them"
        )
    for each in silent:
        if each.dataset.get("name") == name:
            raise DataRefused(f"{each.name} was fitted on {name}, without saying on which rows; name another dataset")
    with registry.reading() as session:
        dataset = datasets.get(session, name, revision)
    rows = datasets.load_rows(registry.artifacts, dataset)
    seed = contestants[0].judging().seed
    found = split(rows, seed=seed, shares=SHARES[RowKind(dataset.kind)])
    none = np.empty(0, np.int64)
    parts = Parts(found.fit, found.select, found.gate, found.gate, found.clusters, none)
    seen = seen_rows(parts, rows, contestants)
    # What was fitted on may be a neighbour, as it is in the gate of a retrain.
    fit = np.setdiff1d(np.union1d(found.fit, seen), found.select)
    parts = replace(parts, fit=fit, judged=np.setdiff1d(found.gate, seen))
    if len(fit) < MIN_FIT_ROWS or not len(found.select):
        raise DataRefused(f"{name}@{dataset.revision} is too small to judge on; name a dataset with more rows")
    return _ground(dataset, rows, parts, seen, seed, tuple(each.name for each in silent))


def _ground(
    dataset: DatasetRevision, rows: list[Row], parts: Parts, seen: Indices, seed: int, vouched: tuple[str, ...] = ()
) -> Ground:
    named = f"{dataset.name}@{dataset.revision}"
    if not len(parts.judged):
        raise DataRefused(
            f"a version was fitted on every row of {named} that could be judged; name a dataset with other rows: "
            "--dataset NAME"
        )
    kind = RowKind(dataset.kind)
    if kind is RowKind.LABELLED and len({rows[row].label for row in parts.fit if not rows[row].weak}) < 2:
        raise DataRefused(f"{named} has a single label to compare with; name a dataset with two or more")
    corpus = view_corpus(rows, parts, seed) if kind is RowKind.UNLABELLED else Corpus.of(rows, kind)
    return Ground(dataset, rows, corpus, parts, seen, vouched)


def _silent(contestants: Sequence[Contestant]) -> list[Contestant]:
    return [each for each in contestants if each.fitted is None]


def seen_rows(parts: Parts, rows: Sequence[Row], contestants: Sequence[Contestant]) -> Indices:
    """Rows, ascending, whose cluster has a row that a contestant was fitted on."""
    everything = np.arange(len(rows), dtype=np.int64)
    fitted = np.unique(np.concatenate([each.fitted for each in contestants if each.fitted is not None] or [_NONE]))
    try:
        unseen = without_fitted(replace(parts, gate=everything), rows, fitted).judged
    except DataRefused:
        return everything
    return np.setdiff1d(everything, unseen)
