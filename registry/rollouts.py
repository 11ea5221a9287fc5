"""Rollouts: a candidate beside the live version, in shadow or for a share of the callers, until that is decided.

    start ──► running ──keep──► passed ──promote──► promoted
                 └──────┬──────────┴─────stop─────► stopped
                        └──another version is live► superseded

Every step is one transaction that begins by looking at the state, so replicas agree: the first to decide decides. What
they count is kept as one row a process that only grows, so writing it twice changes nothing and a crash loses only what
was counted since the last write. What the rules are and what they say of the counts is `monitoring`'s to know.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry import events, versions
from registry.clean import clean
from registry.errors import Conflict, NotFound
from registry.names import storable
from registry.states import RolloutState, VersionState
from registry.tables import RolloutCountRecord, RolloutRecord, now
from registry.versions import Version

__all__ = [
    "Rollout",
    "RolloutState",
    "active",
    "advance",
    "all_active",
    "counts",
    "get",
    "keep",
    "latest",
    "promote",
    "put_counts",
    "reconcile",
    "start",
    "stop",
]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout of `version`, measured against `champion`, which was live when it began; both are numbers.

    `rules` are those of monitoring.rollout_rules as plain values; `salt` (hexadecimal) decides which callers a canary
    answers; `reason` says why it ended, or what it waits for.
    """

    id: int
    adapter: str
    version: int
    champion: int
    state: RolloutState
    rules: dict[str, Any]
    salt: str
    stage: int
    reason: str | None
    started_by: str
    started_at: datetime
    finished_by: str | None
    finished_at: datetime | None

    @property
    def name(self) -> str:
        """The candidate as callers may ask for it, such as `banking@7`."""
        return f"{self.adapter}@{self.version}"


def start(
    session: Session,
    adapter: str,
    number: int,
    *,
    rules: Mapping[str, Any],
    by: str,
    force: bool = False,
    expect_live: int | None = None,
    once: bool = False,
) -> Rollout:
    """Begin to serve a version beside the live one.

    Args:
        rules: Checked ones as plain values (`monitoring.rollout_rules.Rules.to_dict`).
        force: Also a version that the gate rejected.
        expect_live: Refuse when another version than this one is live; None takes any.
        once: Give back the rollout that `by` began for this version before, ended or not; what a job's step needs that
            may be repeated.

    Raises:
        NotFound: There is no such version.
        Conflict: No version is live to compare with, or another than expected, the version is live itself, was
            rejected, or another rollout of the adapter has not ended.
    """
    version = versions.get(session, adapter, number)
    if once and (before := _begun(session, adapter, number, by)) is not None:
        return before
    live = versions.live(session, adapter)
    if live is None:
        raise Conflict(f"{adapter} has no live version to compare with; promote one first")
    if expect_live is not None and expect_live != live.number:
        raise Conflict(f"version {live.number} of {adapter} is live, not {expect_live}: somebody else moved it")
    if live.number == number:
        raise Conflict(f"{version.name} is live already")
    if version.state is VersionState.REJECTED and not force:
        raise Conflict(f"{version.name} was rejected by the gate; only force serves it")
    if (other := active(session, adapter)) is not None:
        raise Conflict(f"a rollout of {other.name} has not ended; stop it first")
    row = RolloutRecord(
        adapter=adapter,
        version=number,
        champion=live.number,
        state=RolloutState.RUNNING,
        rules=dict(rules),
        salt=secrets.token_hex(16),
        stage=0,
        reason=None,
        started_by=clean(by),
        started_at=now(),
        finished_by=None,
        finished_at=None,
    )
    session.add(row)
    session.flush()
    events.record(session, "rollout.started", version.name, by, {"rollout": row.id, "champion": live.number})
    return _rollout(row)


def get(session: Session, rollout: int) -> Rollout:
    """One rollout. Raises NotFound."""
    return _rollout(_row(session, rollout))


def active(session: Session, adapter: str) -> Rollout | None:
    """The rollout of an adapter that has not ended, if there is one."""
    found = latest(session, adapter)
    return None if found is None or found.state.finished else found


def all_active(session: Session) -> list[Rollout]:
    """Every rollout that has not ended, by adapter."""
    query = select(RolloutRecord).where(RolloutRecord.finished_at.is_(None)).order_by(RolloutRecord.adapter)
    return [_rollout(row) for row in session.scalars(query)]


def latest(session: Session, adapter: str) -> Rollout | None:
    """The newest rollout of an adapter, ended or not."""
    if not storable(adapter):
        return None
    row = session.scalar(
        select(RolloutRecord).where(RolloutRecord.adapter == adapter).order_by(RolloutRecord.id.desc()).limit(1)
    )
    return None if row is None else _rollout(row)


def put_counts(session: Session, rollout: int, replica: str, counted: Mapping[str, Any]) -> None:
    """Store all that one process has counted of a rollout; what it stored before is replaced."""
    row = session.get(RolloutCountRecord, (rollout, replica))
    if row is None:
        row = RolloutCountRecord(rollout=rollout, replica=replica)
        session.add(row)
    row.counts, row.updated_at = dict(counted), now()
    session.flush()


def counts(session: Session, rollout: int) -> list[dict[str, Any]]:
    """What each process has counted of a rollout."""
    query = select(RolloutCountRecord).where(RolloutCountRecord.rollout == rollout).order_by(RolloutCountRecord.replica)
    return [row.counts for row in session.scalars(query)]


def reconcile(session: Session, rollout: int, *, by: str = "system") -> Rollout:
    """The rollout as it must stand beside what is live now: ended where its champion is live no longer.

    A candidate that somebody made live by hand counts as promoted. Raises NotFound.
    """
    row = _row(session, rollout)
    if row.state.finished:
        return _rollout(row)
    live = versions.live(session, row.adapter)
    found = None if live is None else live.number
    if found == row.version:
        return _end(session, row, RolloutState.PROMOTED, "it was made live by hand", by)
    if found != row.champion:
        why = f"version {found} went live meanwhile, and the comparison was with {row.champion}"
        return _end(session, row, RolloutState.SUPERSEDED, why, by)
    return _rollout(row)


def advance(session: Session, rollout: int, *, stage: int, by: str = "system") -> Rollout:
    """Go on to a later stage; one that was reached already changes nothing. Raises NotFound."""
    row = _row(session, rollout)
    if not row.state.finished and stage > row.stage:
        row.stage = stage
        session.flush()
        events.record(session, "rollout.advanced", _rollout(row).name, by, {"rollout": row.id, "stage": stage})
    return _rollout(row)


def keep(session: Session, rollout: int, reason: str, *, by: str = "system") -> Rollout:
    """The rules are kept, and a person is to decide, for this reason. Raises NotFound."""
    row = _row(session, rollout)
    if row.state is RolloutState.RUNNING:
        row.state, row.reason = RolloutState.PASSED, clean(reason)
        session.flush()
        events.record(session, "rollout.passed", _rollout(row).name, by, {"rollout": row.id, "reason": row.reason})
    return _rollout(row)


def stop(session: Session, rollout: int, reason: str, *, by: str) -> Rollout:
    """End a rollout; one that has ended stays as it is. Raises NotFound."""
    row = _row(session, rollout)
    return _rollout(row) if row.state.finished else _end(session, row, RolloutState.STOPPED, reason, by)


def promote(session: Session, rollout: int, reason: str, *, by: str, force: bool = False) -> tuple[Rollout, Version]:
    """Make the candidate live and end the rollout, in one transaction; returns the version that is live then.

    Where another version than the champion is live by now, that one stays and the rollout ends as superseded.

    Raises:
        NotFound: There is no such rollout.
        Conflict: It ended before otherwise, no version is live, or the candidate was rejected and `force` is not set.
    """
    row = _row(session, rollout)
    live = versions.live(session, row.adapter)
    if row.state in (RolloutState.STOPPED, RolloutState.SUPERSEDED) or live is None:
        raise Conflict(f"the rollout of {_rollout(row).name} has ended: {row.reason}")
    found = reconcile(session, rollout, by=by)
    if found.state.finished:
        return found, live
    version = versions.promote(session, row.adapter, row.version, by=by, force=force, expect_live=row.champion)
    return _end(session, row, RolloutState.PROMOTED, reason, by), version


def _begun(session: Session, adapter: str, number: int, by: str) -> Rollout | None:
    mine = (RolloutRecord.adapter == adapter, RolloutRecord.version == number, RolloutRecord.started_by == clean(by))
    row = session.scalar(select(RolloutRecord).where(*mine).order_by(RolloutRecord.id.desc()).limit(1))
    return None if row is None else _rollout(row)


def _end(session: Session, row: RolloutRecord, state: RolloutState, reason: str, by: str) -> Rollout:
    row.state, row.reason = state, clean(reason)
    row.finished_at, row.finished_by = now(), clean(by)
    session.flush()
    ended = _rollout(row)
    events.record(session, f"rollout.{state.value}", ended.name, by, {"rollout": row.id, "reason": ended.reason})
    return ended


def _row(session: Session, rollout: int) -> RolloutRecord:
    row = session.get(RolloutRecord, rollout)
    if row is None:
        raise NotFound("rollout", rollout)
    return row


def _rollout(row: RolloutRecord) -> Rollout:
    return Rollout(
        id=row.id,
        adapter=row.adapter,
        version=row.version,
        champion=row.champion,
        state=row.state,
        rules=row.rules,
        salt=row.salt,
        stage=row.stage,
        reason=row.reason,
        started_by=row.started_by,
        started_at=row.started_at,
        finished_by=row.finished_by,
        finished_at=row.finished_at,
    )
