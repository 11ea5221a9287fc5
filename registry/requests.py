"""Asking for a retrain: the one way in for the command line, the API and alerts."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from registry import backbones, datasets, jobs, versions
from registry.errors import Conflict, NotFound
from registry.jobs import Job
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
) -> Job:
    """Queue a refit of `adapter` on a dataset (its newest revision by default); new adapters get the default backbone.

    Args:
        recipe: A validated recipe as plain values.
        by: Who asks, for the journal.

    Raises:
        NotFound: The dataset or its revision does not exist.
        Conflict: No backbone is imported, or the dataset has neither labels nor pairs.
        JobWaiting: A job of this adapter waits already.
        InvalidName: The adapter's name is not allowed.
    """
    found = datasets.get(session, dataset, revision)
    if found.kind == RowKind.UNLABELLED:
        raise Conflict("the dataset has neither labels nor pairs, so nothing can be fitted on it")
    backbone = backbones.default(session)
    if backbone is None:
        raise Conflict("no backbone is imported; run: driftline backbone import")
    versions.ensure_adapter(session, adapter, _backbone_of(session, adapter) or backbone.digest, by=by)
    return jobs.enqueue(
        session,
        adapter=adapter,
        dataset=found.name,
        revision=found.revision,
        recipe=dict(recipe),
        requested_by=by,
        reason=reason,
    )


def _backbone_of(session: Session, adapter: str) -> str | None:
    """Digest of the backbone an existing adapter is bound to."""
    try:
        return versions.get_adapter(session, adapter).backbone
    except NotFound:
        return None
