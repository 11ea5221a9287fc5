"""The steps of a retrain that prepare its fit, and what every step needs. Each may be repeated after a crash.

A step reads what earlier ones left in the job's work folder and leaves its own files there, each whole or absent.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy.typing as npt

from encoder.encoder import Encoder
from encoder.manifest import BackboneManifest, load_manifest_bytes
from monitoring.recipe import Recipe
from registry import backbones, claims, datasets, jobs, versions
from registry.datasets import DatasetRevision
from registry.jobs import Job
from registry.names import parse_model
from registry.registry import Registry
from registry.row import RowKind
from registry.versions import Version
from training.child import FitProcess
from training.data import Corpus, Parts, part
from training.errors import DataRefused, JobCancelled
from training.extra_texts import FILE as EXTRA
from training.extra_texts import extra_arrays, extra_texts
from training.files import WorkFolder
from training.fitted import FILE as FITTED
from training.fitted import fitted_by, fitted_bytes, without_fitted
from training.generic import generic_texts
from training.lora_task import settings_of
from training.pretrained import find_pretrained
from training.problem import Vectors
from training.tracing import JobTraces
from training.views import view_corpus
from training.weights import HeadWeights

# Share of the whole job that is done when a step begins.
BEGINS = {
    "snapshot": 0.0, "encode": 0.04, "fit": 0.45, "export": 0.78, "check": 0.80, "evaluate": 0.84, "gate": 0.90,
    "report": 0.91, "reference": 0.94, "store": 0.96, "publish": 0.97, "promote": 0.98, "finish": 0.99,
}  # fmt: skip
STEPS = tuple(BEGINS)
MIN_GATE_TO_REFIT = 100
"""Rows of the gate from which on the selection rows are fitted as well: the drift monitor is calibrated on the rest."""
_TELL_S = 0.5


class ProcessKeeper(Protocol):
    """Who ends a running child when the worker is told to stop."""

    def keep(self, process: FitProcess | None) -> None:
        """Note the running child, or that there is none."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """How base vectors are computed: execution provider, precision and threads, as `Encoder.open` takes them.

    traces: Where the worker's spans go.
    """

    provider: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    traces: JobTraces = field(default_factory=JobTraces, compare=False)


@dataclass(eq=False)
class JobContext:
    """What a step needs: the registry, the job as it was taken up, its work folder, and how to tell of progress."""

    registry: Registry
    job: Job
    folder: WorkFolder
    runtime: Runtime
    keeper: ProcessKeeper
    _told: float = field(default=0.0)
    _looked: float = field(default=0.0)

    @property
    def recipe(self) -> Recipe:
        """The job's recipe with everything filled in, once `snapshot` has run."""
        return Recipe.from_mapping(self.folder.read_json("recipe.json"))

    @property
    def snapshot(self) -> dict[str, Any]:
        """What `snapshot` wrote down."""
        found: dict[str, Any] = self.folder.read_json("snapshot.json")
        return found

    def corpus(self) -> Corpus:
        """The dataset's rows; those without a label as two views of each."""
        with self.registry.reading() as session:
            dataset = datasets.get(session, self.job.dataset, self.job.revision)
        rows = datasets.load_rows(self.registry.artifacts, dataset)
        if dataset.kind is RowKind.UNLABELLED:
            return view_corpus(rows, self.parts(), self.recipe.seed)
        return Corpus.of(rows, RowKind(dataset.kind))

    def unlabelled(self) -> list[str]:
        """The texts of the recipe's unlabelled dataset; none where it names none."""
        named = self.snapshot["unlabelled"]
        if named is None:
            return []
        with self.registry.reading() as session:
            dataset = datasets.get(session, named["name"], named["revision"])
        return [row.subject for row in datasets.load_rows(self.registry.artifacts, dataset)]

    def extra(self) -> Mapping[str, npt.NDArray[Any]]:
        """Base vectors of what is fitted beside the dataset; empty where there is nothing."""
        return self.folder.read_arrays(EXTRA) if self.folder.has(EXTRA) else {}

    def parts(self) -> Parts:
        """The three parts."""
        return Parts(**self.folder.read_arrays("parts.safetensors"))

    def vectors(self) -> tuple[Vectors, Vectors]:
        """Base vectors of the distinct texts and of the generic sentences."""
        arrays = self.folder.read_arrays("base.safetensors")
        return arrays["texts"], arrays["generic"]

    @property
    def kind(self) -> str:
        """What `fit` kept: "head" or "lora"."""
        return str(self.folder.read_json("fit.json")["method"])

    def weights(self) -> HeadWeights:
        """The fitted head."""
        return HeadWeights.from_bytes(self.folder.read("weights.safetensors"))

    def tell(
        self, step: str, share: float = 0.0, message: str | None = None, metrics: Mapping[str, Any] | None = None
    ) -> None:
        """Write progress to the job: `share` of the step is done.

        Raises JobCancelled when it was asked to stop, ClaimLost when it is another worker's by now.
        """
        following = [at for at in BEGINS.values() if at > BEGINS[step]]
        fraction = BEGINS[step] + share * ((following or [1.0])[0] - BEGINS[step])
        with self.registry.holding(self.job) as session:
            told = jobs.progress(
                session, self.job.id, step=step, fraction=round(fraction, 4), message=message, metrics=metrics
            )
        self._told = time.monotonic()
        self._stop_if(told.cancel_requested)

    def tell_sometimes(self, step: str, share: float, message: str) -> None:
        """As `tell`, but at most twice a second."""
        if time.monotonic() - self._told >= _TELL_S:
            self.tell(step, share, message)

    def check_cancel(self) -> None:
        """Look at most twice a second whether to go on. Raises as `tell`."""
        if time.monotonic() - self._looked >= _TELL_S:
            self._looked = time.monotonic()
            with self.registry.reading() as session:
                claims.check(session, self.job)
                self._stop_if(jobs.get(session, self.job.id).cancel_requested)

    def _stop_if(self, cancelled: bool) -> None:
        if cancelled:
            raise JobCancelled("the job was cancelled on request")


def snapshot(context: JobContext) -> None:
    """Fix what the job works on: dataset revision, backbone, champion, recipe, and the parts of the rows.

    Rows that the champion was fitted on are not judged on. Where it does not say which (`fitted.fitted_by`), all
    held-out rows are: what it has seen favours the champion, never the candidate.
    """
    job = context.job
    context.folder.create()
    context.tell("snapshot", 0.0, "reading the dataset")
    with context.registry.holding(context.job) as session:
        dataset = datasets.get(session, job.dataset, job.revision)
        # Before the adapter is made: a job that cannot run leaves no empty adapter behind.
        recipe = Recipe.from_mapping(job.recipe).resolved(RowKind(dataset.kind))
        named = recipe.unlabelled
        unlabelled = None if named is None else _texts_alone(datasets.get(session, *parse_model(named)))
        known = {adapter.name: adapter for adapter in versions.all_adapters(session)}
        if job.adapter not in known:
            backbone = backbones.default(session)
            if backbone is None:
                raise DataRefused("no backbone has been imported; run `driftline backbone import` first")
            digest = backbone.digest
        else:
            digest = known[job.adapter].backbone
        if recipe.method == "lora":
            find_pretrained(BackboneManifest.from_bytes(load_manifest_bytes(digest, context.registry.fetch)))
        versions.ensure_adapter(session, job.adapter, digest, by=job.id)
        champion = versions.live(session, job.adapter)
    rows = datasets.load_rows(context.registry.artifacts, dataset)
    parts = part(rows, recipe.seed)
    if recipe.refit is None:
        recipe = replace(recipe, refit=len(parts.gate) >= MIN_GATE_TO_REFIT)
    fitted = None if champion is None else fitted_by(champion.digest, context.registry.fetch)
    if fitted is not None:
        parts = without_fitted(parts, rows, fitted)
    context.folder.write_arrays("parts.safetensors", {f.name: getattr(parts, f.name) for f in fields(parts)})
    pool = [] if unlabelled is None else datasets.load_rows(context.registry.artifacts, unlabelled)
    further = [row.subject for row in pool]
    context.folder.write(FITTED, fitted_bytes(rows, parts.seen(recipe.refit), further))
    context.folder.write_json("recipe.json", recipe.to_dict())
    facts = {
        "backbone": digest,
        "dataset": _of(dataset),
        "unlabelled": None if unlabelled is None else _of(unlabelled),
        "champion": None if champion is None else _named(champion),
        "rows": {
            "fit": len(parts.fit),
            "select": len(parts.select),
            "gate": len(parts.gate),
            # Rows of the gate that are not judged on, since the champion was fitted on them.
            "set_aside": len(parts.gate) - len(parts.judged),
        },
    }
    context.folder.write_json("snapshot.json", facts)
    context.tell("snapshot", 1.0, f"{len(rows)} rows", {"rows": facts["rows"]})


def _texts_alone(dataset: DatasetRevision) -> DatasetRevision:
    """The dataset, if it has neither labels nor pairs. Raises DataRefused."""
    if dataset.kind is not RowKind.UNLABELLED:
        raise DataRefused(f"the dataset {dataset.name} that the recipe names as unlabelled holds {dataset.kind} rows")
    return dataset


def _of(dataset: DatasetRevision) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "revision": dataset.revision,
        "digest": dataset.digest,
        "kind": RowKind(dataset.kind).value,
    }


def _named(version: Version) -> dict[str, Any]:
    return {"number": version.number, "digest": version.digest, "kind": version.kind}


def encode(context: JobContext) -> None:
    """Base vectors of every distinct text with the serving encoder, and of the generic sentences."""
    if context.folder.has("base.safetensors"):
        return
    context.tell("encode", 0.0, "loading the backbone")
    runtime = context.runtime
    encoder = Encoder.open(
        context.snapshot["backbone"],
        context.registry.fetch,
        provider=runtime.provider,
        precision=runtime.precision,
        threads=runtime.threads,
    )
    corpus = context.corpus()
    texts = corpus.texts
    started = time.monotonic()
    encoded = encoder.encode(
        texts,
        truncate=True,
        progress=lambda done, whole: context.tell_sometimes("encode", done / whole, f"{done} of {whole} texts"),
    )
    seconds = time.monotonic() - started
    generic = encoder.encode(generic_texts(), truncate=True).vectors
    extra = extra_texts(corpus, context.parts(), context.recipe, context.unlabelled())
    if extra.wordings or extra.pool:
        further = [*(wording.text for wording in extra.wordings), *extra.pool]
        context.folder.write_arrays(EXTRA, extra_arrays(extra, encoder.encode(further, truncate=True).vectors))
    # What a text costs as a LoRA fit reads it, for the method "auto".
    read = settings_of(context.recipe).max_tokens
    share = sum(min(count, read) for count in encoded.counts) / sum(encoded.counts)
    context.folder.write_json("encode.json", {"lora_text_s": seconds * share / len(texts)})
    context.folder.write_arrays("base.safetensors", {"texts": encoded.vectors, "generic": generic})
    facts = {
        "texts": len(texts),
        "extra": extra.report,
        "truncated": int(sum(encoded.truncated)),
        "seconds": round(seconds, 2),
        "provider": encoder.session.provider,
        "precision": encoder.session.precision,
    }
    context.tell("encode", 1.0, f"{len(texts)} texts in {seconds:.1f} s", {"encode": facts})
