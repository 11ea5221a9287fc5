"""Retrains that nobody asked for in person: on which rows, by which recipe, and what holds them back.

An alert, or the built-in policy, chooses an adapter that exists and nothing else: dataset and recipe are those of the
adapter's last job, with a gate no laxer than the default. Whether there is drift, and how much, is taken from our own
state, never from an alert's text. At most one job of an adapter waits; after one there is a pause, and a day has a
budget. Only what a job answers is remembered: an alert that led to nothing may lead to a job when it is sent again,
after new rows were uploaded or the pause is over.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from monitoring.advice import Action, Advice
from monitoring.errors import RecipeRefused
from monitoring.limits import laxer_fields
from monitoring.recipe import Recipe
from registry import alerts, datasets, jobs, versions
from registry.errors import Conflict, JobWaiting, NotFound, RegistryError
from registry.jobs import Job, JobState
from registry.names import parse_model
from registry.registry import Registry
from registry.requests import request_retrain

JOBS_LOOKED_AT: Final = 200
"""How far back the last job that succeeded is looked for."""
DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds retrains back that nobody asked for in person.

    cooldown: after such a retrain of an adapter, unless it failed or was cancelled, no other one begins for this long.
    budget: most of them in 24 hours, of all adapters together. need_effect: whether our own state has to advise one.
    """

    cooldown: timedelta
    budget: int
    need_effect: bool


@dataclass(frozen=True, slots=True)
class Cause:
    """What asks: `key` and `begins` name it each time it comes, 1 to 128 and 1 to 64 printable ASCII characters.

    traceparent: Of the request that brought it, if that is traced.
    """

    adapter: str
    key: str
    begins: str
    by: str
    reason: str
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What it led to: a word (accepted, waiting, …), the job that answers it, and what is advised in its place."""

    word: str
    job_id: str | None = None
    advice: Action | None = None


class _Nothing(Exception):
    """It leads to nothing, and is not remembered."""

    def __init__(self, word: str, advice: Action | None = None) -> None:
        super().__init__(word)
        self.outcome = Outcome(word, advice=advice)


def ask(registry: Registry, cause: Cause, limits: Limits, advice: Callable[[Any], Advice]) -> Outcome:
    """Queue at most one retrain for a cause; repeating it gives the job that was queued.

    Args:
        advice: Gives what our own state advises, read in the session it is called with.
    """
    try:
        with registry.writing() as session:  # undone as a whole when it leads to nothing
            if not alerts.claim(session, cause.key, cause.begins, cause.adapter, by=cause.by):
                return Outcome("duplicate", alerts.job_of(session, cause.key, cause.begins))
            outcome = _queue(session, cause, limits, advice)
            if outcome.job_id is not None:
                alerts.attach_job(session, cause.key, cause.begins, outcome.job_id)
            return outcome
    except _Nothing as nothing:
        return nothing.outcome
    except NotFound:
        return Outcome("unknown_adapter")


def _queue(session: Any, cause: Cause, limits: Limits, advice: Callable[[Any], Advice]) -> Outcome:
    """Ask for the retrain; the outcome with the job that answers. Raises _Nothing."""
    past = jobs.all(session, cause.adapter, JOBS_LOOKED_AT)
    dataset = _last_dataset(session, cause.adapter, past)
    try:
        newest = datasets.get(session, dataset).revision if dataset is not None else None
    except RegistryError:
        newest = None
    if dataset is None or newest is None:
        raise _Nothing("no_dataset")
    recipe = _last_recipe(past)
    if queued := next((job for job in past if job.state is JobState.QUEUED), None):
        return Outcome("waiting", queued.id)
    if limits.need_effect and (found := advice(session).action) is not Action.RETRAIN:
        raise _Nothing("not_advised", found)
    done = next((job for job in past if job.state is JobState.SUCCEEDED), None)
    if done is not None and (done.dataset, done.revision) == (dataset, newest) and _read(done.recipe) == recipe:
        raise _Nothing("nothing_new")  # the same rows and recipe would give the same version again
    _hold_back(session, cause.adapter, limits)
    try:
        job = request_retrain(
            session, adapter=cause.adapter, dataset=dataset, recipe=recipe.to_dict(), by=cause.by, reason=cause.reason,
            traceparent=cause.traceparent,
        )  # fmt: skip
    except JobWaiting as waiting:
        return Outcome("waiting", waiting.job_id)
    except (NotFound, Conflict):
        raise _Nothing("refused") from None
    return Outcome("accepted", job.id)


def _hold_back(session: Any, adapter: str, limits: Limits) -> None:
    """Raise _Nothing while the adapter's pause lasts or the day's budget is spent."""
    now = datetime.now(UTC)
    ended_badly = (JobState.FAILED, JobState.CANCELLED)
    if any(state not in ended_badly for state in alerts.started(session, now - limits.cooldown, adapter)):
        raise _Nothing("cooling_down")
    if len(alerts.started(session, now - DAY)) >= limits.budget:
        raise _Nothing("over_budget")


def _last_dataset(session: Any, adapter: str, past: list[Job]) -> str | None:
    """The dataset of the adapter's last job, else of its newest version; the job will take its newest revision."""
    if past:
        return past[0].dataset
    history = versions.history(session, adapter)
    try:
        return parse_model(history[0].dataset)[0] if history else None
    except RegistryError:
        return None


def _last_recipe(past: list[Job]) -> Recipe:
    """The recipe of the adapter's last job, or the defaults; where its gate is laxer than the default, that holds."""
    if not past:
        return Recipe()
    recipe = _read(past[0].recipe)
    if recipe is None:  # of another release: how strict it was is not known, so a person decides on the version
        return Recipe(promote=False)
    laxer = set(laxer_fields(recipe.gate_settings()))
    if not laxer:
        return recipe
    gate = {name: value for name, value in recipe.gate.items() if name not in laxer}
    if "geometry" in gate:
        gate["geometry"] = {n: v for n, v in gate["geometry"].items() if f"geometry.{n}" not in laxer}
    return dataclasses.replace(recipe, gate=gate)


def _read(recipe: Mapping[str, Any]) -> Recipe | None:
    try:
        return Recipe.from_mapping(recipe)
    except RecipeRefused:
        return None
