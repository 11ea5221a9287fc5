"""The steps of a retrain that prepare and fit. Each may be repeated after a crash and then does no harm.

A step reads what earlier ones left in the job's work folder and leaves its own files there, each whole or absent.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from encoder.encoder import Encoder
from monitoring.recipe import Recipe
from registry import backbones, datasets, jobs, versions
from registry.jobs import Job
from registry.registry import Registry
from registry.row import RowKind
from training import problem
from training.child import FitProcess
from training.crash import crash_point
from training.data import Corpus, Parts, fit_problem, part
from training.errors import DataRefused, JobCancelled
from training.evaluation import generic_parts
from training.files import WorkFolder
from training.fitted import FILE as FITTED
from training.fitted import fitted_by, fitted_bytes, without_fitted
from training.generic import generic_texts
from training.problem import Vectors
from training.weights import HeadWeights

# Share of the whole job that is done when a step begins.
BEGINS = {
    "snapshot": 0.0, "encode": 0.04, "fit": 0.45, "evaluate": 0.82, "gate": 0.88, "export": 0.90, "check": 0.92,
    "reference": 0.94, "store": 0.96, "publish": 0.97, "promote": 0.98, "finish": 0.99,
}  # fmt: skip
STEPS = tuple(BEGINS)
_TELL_S = 0.5


class ProcessKeeper(Protocol):
    """Who ends a running child when the worker is told to stop."""

    def keep(self, process: FitProcess | None) -> None:
        """Note the running child, or that there is none."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """How base vectors are computed: execution provider, precision and threads, as `Encoder.open` takes them."""

    provider: str = "auto"
    precision: str = "auto"
    threads: int | None = None


@dataclass(eq=False)
class JobContext:
    """Everything a step needs: the registry, the job as it stood, its work folder, and how to tell of progress."""

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
        """The dataset's rows."""
        with self.registry.reading() as session:
            dataset = datasets.get(session, self.job.dataset, self.job.revision)
        return Corpus.of(datasets.load_rows(self.registry.artifacts, dataset), RowKind(dataset.kind))

    def parts(self) -> Parts:
        """The three parts."""
        return Parts(**self.folder.read_arrays("parts.safetensors"))

    def vectors(self) -> tuple[Vectors, Vectors]:
        """Base vectors of the distinct texts and of the generic sentences."""
        arrays = self.folder.read_arrays("base.safetensors")
        return arrays["texts"], arrays["generic"]

    def weights(self) -> HeadWeights:
        """The fitted head."""
        return HeadWeights.from_bytes(self.folder.read("weights.safetensors"))

    def tell(
        self, step: str, share: float = 0.0, message: str | None = None, metrics: Mapping[str, Any] | None = None
    ) -> None:
        """Write progress to the job: `share` of the step is done. Raises JobCancelled when it was asked to stop."""
        following = [at for at in BEGINS.values() if at > BEGINS[step]]
        fraction = BEGINS[step] + share * ((following or [1.0])[0] - BEGINS[step])
        with self.registry.writing() as session:
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
        """Raise JobCancelled when the job was asked to stop; looks at most twice a second."""
        if time.monotonic() - self._looked >= _TELL_S:
            self._looked = time.monotonic()
            with self.registry.reading() as session:
                self._stop_if(jobs.get(session, self.job.id).cancel_requested)

    def _stop_if(self, cancelled: bool) -> None:
        if cancelled:
            raise JobCancelled("the job was cancelled on request")


def snapshot(context: JobContext) -> None:
    """Fix what the job works on: dataset revision, backbone, champion, recipe, and the parts of the rows."""
    job = context.job
    context.folder.create()
    context.tell("snapshot", 0.0, "reading the dataset")
    with context.registry.writing() as session:
        dataset = datasets.get(session, job.dataset, job.revision)
        # Before the adapter is made: a job that cannot run leaves no empty adapter behind.
        recipe = Recipe.from_mapping(job.recipe).resolved(RowKind(dataset.kind))
        known = {adapter.name: adapter for adapter in versions.all_adapters(session)}
        if job.adapter not in known:
            backbone = backbones.default(session)
            if backbone is None:
                raise DataRefused("no backbone has been imported; run `driftline backbone import` first")
            versions.ensure_adapter(session, job.adapter, backbone.digest, by=job.id)
            digest = backbone.digest
        else:
            digest = known[job.adapter].backbone
        champion = versions.live(session, job.adapter)
    rows = datasets.load_rows(context.registry.artifacts, dataset)
    parts = part(rows, recipe.seed)
    fitted = None if champion is None else fitted_by(champion.digest, context.registry.fetch)
    if fitted is not None:
        parts = without_fitted(parts, rows, fitted)
    context.folder.write_arrays("parts.safetensors", {f.name: getattr(parts, f.name) for f in fields(parts)})
    context.folder.write(FITTED, fitted_bytes(rows, parts.seen(recipe.refit)))
    context.folder.write_json("recipe.json", recipe.to_dict())
    facts = {
        "backbone": digest,
        "dataset": {"name": dataset.name, "revision": dataset.revision, "digest": dataset.digest},
        "champion": None if champion is None else {"number": champion.number, "digest": champion.digest},
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
    texts = context.corpus().texts
    started = time.monotonic()
    encoded = encoder.encode(
        texts,
        truncate=True,
        progress=lambda done, whole: context.tell_sometimes("encode", done / whole, f"{done} of {whole} texts"),
    )
    seconds = time.monotonic() - started
    generic = encoder.encode(generic_texts(), truncate=True).vectors
    context.folder.write_arrays("base.safetensors", {"texts": encoded.vectors, "generic": generic})
    facts = {
        "texts": len(texts),
        "truncated": int(sum(encoded.truncated)),
        "seconds": round(seconds, 2),
        "provider": encoder.session.provider,
        "precision": encoder.session.precision,
    }
    context.tell("encode", 1.0, f"{len(texts)} texts in {seconds:.1f} s", {"encode": facts})


def fit(context: JobContext) -> None:
    """Fit the head in a child process."""
    if not context.folder.has("fit.json"):
        context.tell("fit", 0.0, "starting the fit")
        vectors, generic = context.vectors()
        task = fit_problem(context.corpus(), context.parts(), vectors)
        judged, replayed = generic_parts(generic, context.recipe)
        context.folder.write_arrays("generic.safetensors", {"judged": judged, "replayed": replayed})
        context.folder.write("problem.safetensors", problem.to_bytes(task))
        process = FitProcess(context.folder.path)
        context.keeper.keep(process)
        try:
            process.wait(lambda told: _fit_progress(context, told), context.check_cancel, context.recipe.time_budget_s)
        finally:
            context.keeper.keep(None)
    report = context.folder.read_json("fit.json")
    kept = {name: report[name] for name in ("base_score", "select_score", "best_step", "alpha", "stopped", "seconds")}
    context.tell("fit", 1.0, f"selection score {kept['base_score']:.4f} -> {kept['select_score']:.4f}", {"fit": kept})


def _fit_progress(context: JobContext, told: Mapping[str, Any]) -> None:
    crash_point("fit.during")
    message = f"step {told['step']} of {told['steps']}, selection score {told['score']:.4f}"
    context.tell_sometimes("fit", told["step"] / told["steps"], message)
