"""What this service advises about an adapter: the registry's state, with what its monitors and its runtime know."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from monitoring.advice import Advice, Situation, advise
from monitoring.monitor_settings import MonitorSettings
from monitoring.situation import situation
from service.probe_watch import ProbeWatch
from service.snapshot import Snapshot
from service.watch import Watch
from service.watched import Watched

DOUBT_SECONDS: Final = 5.0
"""How long is waited for the monitors' thread; then what the registry holds has to do."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why alarms of a version cannot be raised or believed; `withdrawn`: they come more often than stated."""

    why_not: str
    withdrawn: bool


class Advisor:
    """Puts together what is known and asks for the advice; safe for threads, but `doubts`, which the loop asks for."""

    def __init__(
        self, watch: Watch, probes: ProbeWatch, snapshot: Callable[[], Snapshot], settings: MonitorSettings
    ) -> None:
        self._watch = watch
        self._probes = probes
        self._snapshot = snapshot
        self._settings = settings

    async def doubts(self) -> dict[str, Doubt]:
        """The doubts about each watched adapter that has some; none while the monitors' thread is busy."""
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self._watch.ask(_doubts)), DOUBT_SECONDS)
        except TimeoutError:
            return {}

    def situation(self, session: Any, adapter: str, doubts: Mapping[str, Doubt]) -> Situation:
        """What is known of an adapter.

        Args:
            session: Of the registry, reading or writing.
            doubts: As `doubts` gave them.

        Raises:
            NotFound: There is no such adapter.
        """
        doubt = doubts.get(adapter)
        return situation(
            session,
            adapter,
            why_not=None if doubt is None else doubt.why_not,
            withdrawn=doubt is not None and doubt.withdrawn,
            differing=self._differing(adapter),
        )

    def advise(self, known: Situation) -> Advice:
        """The advice for a situation, by this service's settings of the monitor."""
        return advise(known, self._settings)

    def _differing(self, adapter: str) -> tuple[str, ...]:
        """Of the live version and its backbone, what encodes its probes otherwise than before."""
        warnings = self._probes.warnings
        if not warnings:
            return ()
        snapshot = self._snapshot()
        view = snapshot.adapters.get(adapter)
        record = None if view is None else view.serving
        backbone = None if record is None else snapshot.backbone_of(record.backbone)
        names = [] if record is None else [record.name]
        names += [] if backbone is None else [backbone.record.name]
        return tuple(name for name in names if name in warnings)


def _doubts(watched: Mapping[str, Watched]) -> dict[str, Doubt]:
    """Runs on the monitors' thread."""
    found = {}
    for adapter, one in watched.items():
        why_not = one.why_not
        if why_not is not None:
            found[adapter] = Doubt(why_not, withdrawn=one.reference.calibrated)
    return found
