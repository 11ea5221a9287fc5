"""One retrain from its first step to its end: which steps there are, and how a step's outcome ends the job."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from encoder.errors import EncoderError
from monitoring.errors import MonitoringError
from registry import jobs, versions
from registry.errors import ClaimLost, NotFound, RegistryError, Unavailable
from registry.states import JobState
from training import artifact, fit_step, judge, publish, report_step, steps
from training.crash import crash_point
from training.errors import JobCancelled, TrainingError
from training.files import WorkFolder
from training.steps import JobContext

log = structlog.get_logger()

DONE: Final = "done"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
LOST: Final = "lost"

WORK: Final[Mapping[str, Callable[[JobContext], None]]] = {
    "snapshot": steps.snapshot,
    "encode": steps.encode,
    "fit": fit_step.fit,
    "export": artifact.export,
    "check": artifact.check,
    "evaluate": judge.evaluate,
    "gate": judge.gate,
    "report": report_step.report,
    "reference": publish.reference,
    "store": publish.store,
    "publish": publish.publish,
    "promote": publish.promote,
}
"""Step name -> what it does, in order; `finish` follows."""
NAMES: Final = (*WORK, "finish")


def run_step(context: JobContext, name: str) -> dict[str, str]:
    """Do one step; the outcome as plain JSON: {"state": done | failed | cancelled | lost, "error": ...}.

    An expected error tells its own message. Anything else tells its type alone, since its message could repeat a text
    of the dataset.

    Raises:
        Unavailable: The registry's database is away; the step can be repeated.
    """
    return context.runtime.traces.step(context.registry, context.job, name, lambda: _outcome(context, name))


def _outcome(context: JobContext, name: str) -> dict[str, str]:
    crash_point(f"{name}.before")
    try:
        WORK[name](context)
    except JobCancelled as error:
        return {"state": CANCELLED, "error": str(error)}
    except ClaimLost as error:
        return {"state": LOST, "error": str(error)}
    except Unavailable:
        raise
    except (TrainingError, RegistryError, EncoderError, MonitoringError) as error:
        log.warning("retrain.step_failed", job=context.job.id, step=name, error=type(error).__name__)
        return {"state": FAILED, "error": f"{name}: {error}"}
    except MemoryError:
        return {"state": FAILED, "error": f"{name}: not enough memory; use fewer rows or a machine with more"}
    except OSError as error:
        log.error("retrain.step_failed", job=context.job.id, step=name, error=type(error).__name__, errno=error.errno)
        return {"state": FAILED, "error": f"{name}: the disk refused ({error.strerror}); free space and queue it again"}
    except Exception as error:  # noqa: BLE001 - the job has to end, whatever it was
        log.error("retrain.step_crashed", job=context.job.id, step=name, error=type(error).__name__, at=_place(error))
        text = f"{name}: unexpected {type(error).__name__}; the worker's log names the place, queue it again"
        return {"state": FAILED, "error": text}
    crash_point(f"{name}.after")
    return {"state": DONE}


def finish(context: JobContext, outcome: Mapping[str, str]) -> None:
    """End the job as its last step ended, and delete its work folder; repeating it changes nothing.

    Of a job that is another worker's by now only the folder goes. Raises ClaimLost when that is seen only here.
    """
    crash_point("finish.before")
    state = outcome["state"]
    if state == LOST:
        log.warning("retrain.lost", job=context.job.id, adapter=context.job.adapter, attempt=context.job.attempts)
        context.folder.remove()
        return
    with context.registry.reading() as session:
        ended = jobs.get(session, context.job.id).state.finished
    if not ended:
        if state == DONE:
            _succeed(context)
        else:
            end = JobState.CANCELLED if state == CANCELLED else JobState.FAILED
            abandon(context, end, None if end is JobState.CANCELLED else outcome["error"])
    context.folder.remove()
    context.runtime.traces.ended(context.registry, context.job.id)
    crash_point("finish.after")


def _succeed(context: JobContext) -> None:
    promotion = context.folder.read_json("promotion.json")
    with context.registry.holding(context.job) as session:
        jobs.finish(
            session,
            context.job.id,
            JobState.SUCCEEDED,
            verdict=context.folder.read_json("verdict.json"),
            version=context.folder.read_json("version.json")["number"],
            metrics={"promotion": promotion},
        )
    log.info("retrain.succeeded", job=context.job.id, adapter=context.job.adapter, promoted=promotion["promoted"])


def abandon(context: JobContext, state: JobState, error: str | None) -> None:
    """End a job that did not come through; the verdict it had reached and a version it had published stay with it."""
    verdict = context.folder.read_json("verdict.json") if context.folder.has("verdict.json") else None
    with context.registry.holding(context.job) as session:
        published = versions.by_job(session, context.job.id)
        number = None if published is None else published.number
        jobs.finish(session, context.job.id, state, verdict=verdict, error=error, version=number)
    context.folder.remove()
    log.info("retrain.ended", job=context.job.id, adapter=context.job.adapter, state=state.value)


def job_of(folder: str) -> str:
    """The job whose run a work folder is named after; the second run of a job in one home has the suffix ".2"."""
    return folder.partition(".")[0]


def sweep_folders(context_root: WorkFolder, is_finished: Callable[[str], bool]) -> int:
    """Delete work folders whose job has ended or is unknown; the number deleted."""
    removed = 0
    for path in sorted(context_root.path.glob("job_*")):
        try:
            stale = is_finished(job_of(path.name))
        except NotFound:
            stale = True
        if stale:
            WorkFolder(path).remove()
            removed += 1
    return removed


def _place(error: BaseException) -> str:
    """File and line where an exception came from, without its message."""
    trace: Any = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
