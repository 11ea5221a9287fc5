"""Where a rollout stands by its rules, and the one transaction in which replicas add up, judge and act."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from monitoring.errors import MonitoringError
from monitoring.gate import Outcome
from monitoring.limits import gate_settings, laxer_fields
from monitoring.rollout_rules import Action, Judgement, Rules, judge
from monitoring.tally import UNIT, Tally
from monitoring.window import P_VALUE_EDGES
from registry import datasets, jobs, rollouts, versions
from registry.errors import NotFound
from registry.registry import Registry
from registry.rollouts import Rollout, RolloutState
from registry.row import RowKind

ACTOR = "rollout"
"""Who promotes and stops by the rules, in the journal."""

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Standing:
    """A rollout with what all processes counted, what its rules say of that, and why it would not promote by itself."""

    rollout: Rollout
    rules: Rules
    tally: Tally
    judgement: Judgement
    held_by: str | None
    replicas: int

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values, as the API and the command show it."""
        rollout, tally, judgement = self.rollout, self.tally, self.judgement
        return {
            "id": rollout.id,
            "adapter": rollout.adapter,
            "version": rollout.name,
            "champion": f"{rollout.adapter}@{rollout.champion}",
            "mode": self.rules.mode,
            "state": rollout.state.value,
            "reason": rollout.reason,
            "share": 0.0 if rollout.state.finished else self.rules.share(rollout.stage),
            "stage": rollout.stage,
            "rules": self.rules.to_dict(),
            "missing": list(judgement.missing),
            "broken": list(judgement.broken),
            "held_by": self.held_by,
            "bounds": {
                name: {**dataclasses.asdict(found), "limit": judgement.limits.get(name)}
                for name, found in judgement.bounds.items()
                if found.n
            },
            "counts": {
                "observations": tally.observations,
                "texts": tally.texts,
                "served": tally.served,
                "attempts": tally.attempts,
                "failures": tally.failures,
                "timed": tally.timed,
                "slow": tally.slow,
            },
            "latency_ratio": tally.candidate_us / tally.live_us if tally.live_us else None,
            "score_shift": (tally.score_candidate - tally.score_live) / UNIT / tally.texts if tally.texts else None,
            "novelty": {
                "edges": list(P_VALUE_EDGES),
                "live": list(tally.p_live),
                "candidate": list(tally.p_candidate),
            },
            "processes": self.replicas,
            "started_at": rollout.started_at,
            "started_by": rollout.started_by,
            "finished_at": rollout.finished_at,
            "finished_by": rollout.finished_by,
        }


def latest(registry: Registry, adapter: str) -> Standing:
    """The newest rollout of an adapter.

    Raises:
        NotFound: There is no such adapter, or it never had a rollout.
        MonitoringError: What is stored of it cannot be read.
    """
    with registry.reading() as session:
        versions.get_adapter(session, adapter)
        found = rollouts.latest(session, adapter)
        if found is None:
            raise NotFound("rollout of", adapter)
        return _standing(session, found, datetime.now(UTC))


def settle(registry: Registry, rollout: int, replica: str, tally: Tally, clock: Clock | None = None) -> Standing:
    """Store all that a process has counted, judge what all of them have, and do what the rules say, at once or not.

    The state is looked at first, so of several processes the first decides and the others find it done. Only a process
    that has the candidate loaded and proven may call this.

    Args:
        tally: Everything that this process has counted since it began.

    Raises:
        NotFound: There is no such rollout.
        RegistryError: The registry cannot be written; nothing was done.
        MonitoringError: What is stored cannot be read.
    """
    moment = datetime.now(UTC) if clock is None else clock()
    with registry.writing() as session:
        found = rollouts.reconcile(session, rollout, by=ACTOR)
        if found.state.finished:
            return _standing(session, found, moment)
        rollouts.put_counts(session, rollout, replica, tally.to_json())
        standing = _standing(session, found, moment)
        match standing.judgement.action:
            case Action.STOP:
                found = rollouts.stop(session, rollout, "; ".join(standing.judgement.broken), by=ACTOR)
            case Action.ADVANCE:
                found = rollouts.advance(session, rollout, stage=found.stage + 1, by=ACTOR)
            case Action.PASS if standing.held_by is not None:
                found = rollouts.keep(session, rollout, standing.held_by, by=ACTOR)
            case Action.PASS:
                found, _ = rollouts.promote(session, rollout, "every rule is kept", by=ACTOR)
            case Action.WAIT:
                pass
        return dataclasses.replace(standing, rollout=found)


def _standing(session: Any, found: Rollout, moment: datetime) -> Standing:
    rules = Rules.from_mapping(found.rules)
    stored = rollouts.counts(session, found.id)
    tally = sum((Tally.from_json(counted) for counted in stored), Tally())
    # One that has shown what was asked for waits for a person, however long that takes.
    waits = found.state is RolloutState.PASSED
    elapsed = 0.0 if waits else ((found.finished_at or moment) - found.started_at).total_seconds()
    judgement = judge(rules, tally, stage=found.stage, elapsed_s=elapsed)
    return Standing(found, rules, tally, judgement, _held_by(session, found, rules), len(stored))


def _held_by(session: Any, found: Rollout, rules: Rules) -> str | None:
    """Why the candidate may not go live by itself, None when it may."""
    if rules.on_success == "hold":
        return "the rules leave the promotion to a person"
    version = versions.get(session, found.adapter, found.version)
    outcome = (version.verdict or {}).get("outcome")
    if outcome != Outcome.PASS:
        return f"the gate's verdict is {outcome or 'missing'}, so a person decides"
    if version.job_id is not None:
        try:
            job = jobs.get(session, version.job_id)
            kind = datasets.get(session, job.dataset, job.revision).kind
            laxer = laxer_fields(gate_settings(job.recipe.get("gate", {})))
        except (NotFound, MonitoringError):
            return "the gate of its retrain cannot be read, so a person decides"
        if kind is RowKind.UNLABELLED:
            return "it was fitted and judged without labels or pairs, so a person decides"
        if laxer:
            return f"the gate of its retrain was laxer than the default in {', '.join(laxer)}, so a person decides"
    return None
