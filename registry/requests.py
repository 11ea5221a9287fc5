"""Asking for a retrain: the one way in for the command line, the API and alerts."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from registry import backbones, datasets, jobs
from registry.errors import Conflict
from registry.jobs import Job
from registry.names import valid_name
from registry.row import RowKind


def request_retrain(
    session: Session,
    *,
    adapter: str,
    dataset: str,
    recipe: Mapping[str, Any],
    by: str,
    revision: int | None = None,
    reason: str | None = None,
    traceparent: str | None = None,
) -> Job:
    """Queue a refit of `adapter` on a dataset (its newest revision by default); the job makes an adapter that is new.

    Args:
        recipe: A validated recipe as plain values.
        by: Who asks, for the journal.
        traceparent: Of the request that asks, if it is traced: the job becomes a part of its trace.

    Raises:
        NotFound: The dataset or its revision does not exist.
        Conflict: No backbone is imported, the name is a backbone's, or the dataset has neither labels nor pairs.
        JobWaiting: A job of this adapter waits already.
        InvalidName: The adapter's name is not allowed.
    """
    valid_name(adapter)
    found = datasets.get(session, dataset, revision)
    if found.kind is RowKind.UNLABELLED:
        raise Conflict("the dataset has neither labels nor pairs, so nothing can be fitted on it")
    imported = backbones.all(session)
    if not imported:
        raise Conflict("no backbone is imported; run: driftline backbone import")
    if any(backbone.name.lower() == adapter for backbone in imported):
        raise Conflict(f"the name {adapter} belongs to a backbone")
    return jobs.enqueue(
        session,
        adapter=adapter,
        dataset=found.name,
        revision=found.revision,
        recipe=recipe,
        requested_by=by,
        reason=reason,
        traceparent=traceparent,
    )
