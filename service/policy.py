"""The built-in policy: where it is switched on, an alarm that calls for a retrain gets one, without an Alertmanager.

It asks as an alert would, under the same limits, once for each alarm: the alarm's version and begin name it, so several
services that look at the same registry queue one job.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import structlog

from monitoring.advice import Action, Advice
from monitoring.metrics import Metrics
from registry import readings
from registry.errors import RegistryError
from registry.readings import MonitorState
from registry.registry import Registry
from service.advisor import Advisor, Doubt
from service.retrains import Cause, Limits, ask
from service.threads import Pool

log = structlog.get_logger()

LOOK_SECONDS: Final = 5.0
ACTOR: Final = "policy"


class Policy:
    """Looks at the alarms that stand, every LOOK_SECONDS.

    Args:
        pool: Threads that read and write the registry.
        on: Whether it is switched on; else it does nothing.
    """

    def __init__(
        self, registry: Registry, advisor: Advisor, metrics: Metrics, pool: Pool, limits: Limits, *, on: bool
    ) -> None:
        self._registry = registry
        self._advisor = advisor
        self._metrics = metrics
        self._pool = pool
        self._limits = limits
        self._on = on
        self._told: dict[str, tuple[str, str]] = {}  # adapter -> alarm and what it led to, as it was last counted

    async def run(self) -> None:
        """Look for ever; a registry that is away is asked again."""
        while self._on:
            try:
                await self.look()
            except RegistryError as error:
                log.warning("policy_cannot_look", error=type(error).__name__)
            except Exception as error:  # noqa: BLE001  the service goes on, and so does the policy
                log.error("policy_failed", error=type(error).__name__)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> dict[str, str]:
        """Act on every alarm of a live version; what became of each, by adapter."""
        standing = await self._pool(self._standing)
        if not standing:
            return {}
        doubts = await self._advisor.doubts()
        return {kept.adapter: await self._pool(self._act, kept, doubts) for kept in standing}

    def _standing(self) -> list[MonitorState]:
        with self._registry.reading() as session:
            return readings.standing(session)

    def _act(self, kept: MonitorState, doubts: Mapping[str, Doubt]) -> str:
        """The outcome of one alarm, counted and logged when it is another one than at the last look."""
        adapter = kept.adapter
        begins = "" if kept.alarm_since is None else kept.alarm_since.isoformat()
        key = f"driftline:{adapter}@{kept.version}"

        def advice(session: Any) -> Advice:
            return self._advisor.advise(self._advisor.situation(session, adapter, doubts))

        # Looked at first without a writer's turn, which an alarm that leads to nothing would take at every look.
        with self._registry.reading() as session:
            advised = advice(session).action
        word, job = "not_advised", None
        if advised is Action.RETRAIN:
            cause = Cause(adapter, key, begins or "unknown", ACTOR, f"drift alarm of {adapter}@{kept.version}")
            found = ask(self._registry, cause, self._limits, advice)
            word, job = found.word, found.job_id
        if self._told.get(adapter) != (key + begins, word) and word != "duplicate":
            self._metrics.retrain_requests.labels(ACTOR, word).inc()
            log.info("policy_acted", adapter=adapter, outcome=word, advice=advised.value, job=job)
        self._told[adapter] = (key + begins, word)
        return word
