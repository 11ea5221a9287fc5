"""Delay at equal run length: this monitor and the rivals on the same streams, all tuned to one measured run length."""

import subprocess
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks.drift.corpus import Rows
from benchmarks.drift.intervals import Delays, rate_length
from benchmarks.drift.level import until_alarm
from benchmarks.drift.opponents import QUIET, RIVALS, RUNS, Field, run
from benchmarks.drift.settings import Card
from monitoring.monitor_settings import MonitorSettings
from monitoring.reference import Scored

TARGETS: Final = (1_000, 10_000)
BATCH: Final = 4
"""Items applied at once here; the service applies what came in within a second, at most 256."""
_STEP: Final = 1.2
_STEPS: Final = 14
"""Stated run lengths that are tried for a target: itself, and each a step below the one before."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a method at one threshold."""

    words: str
    run_length: str
    delays: dict[str, Delays]


class Own:
    """This monitor on the streams of a field; all their texts are scored once."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.scored: Scored = field.reference.score(field.corpus.vectors)

    def until(self, settings: MonitorSettings, rows: Rows) -> int | None:
        return until_alarm(self.field.reference, settings, self.scored, rows, BATCH)

    def quiet(self, settings: MonitorSettings) -> tuple[int, int]:
        """(items, alarms) on the quiet streams, beginning anew after each alarm."""
        items = alarms = 0
        for rows in self.field.quiet():
            start = 0
            while start < len(rows):
                ended = self.until(settings, rows[start:])
                alarms += ended is not None
                items += ended or len(rows) - start
                start += ended or len(rows) - start
        return items, alarms

    def tuned(self, target: int) -> MonitorSettings:
        """The smallest stated run length of those tried at which `target` is measured; the target where none is."""
        tried = [MonitorSettings(arl=max(100, round(target / _STEP**step))) for step in reversed(range(_STEPS))]
        low, high = 0, len(tried) - 1
        while low < high:
            middle = (low + high) // 2
            items, alarms = self.quiet(tried[middle])
            low, high = (middle + 1, high) if alarms and items / alarms < target else (low, middle)
        return tried[low]

    def row(self, words: str, settings: MonitorSettings) -> Row:
        """Its delays in every scenario at these settings."""
        found = {}
        for scenario in self.field.scenarios:
            streams, starts = self.field.streams(scenario.key)
            ends = [self.until(settings, rows) for rows in streams]
            delays = [
                None if end is None else "early" if end <= start else end - start
                for end, start in zip(ends, starts, strict=True)
            ]
            found[scenario.key] = Delays.of(delays)
        return Row(f"{words}, stated {settings.arl:,}", rate_length(*self.quiet(settings)), found)


def own_rows(own: Own, target: int) -> list[Row]:
    """This monitor tuned as the others are, then at the stated run length, then with windows where they allow that."""
    rows = [own.row("Driftline, tuned as the others are", own.tuned(target))]
    rows.append(own.row("Driftline", MonitorSettings(arl=target)))
    if target >= 10 * MonitorSettings().window:
        rows.append(own.row("Driftline, mode windows", MonitorSettings(arl=target, mode="windows")))
    return rows


def rival_rows(field: Field) -> tuple[dict[int, list[Row]], list[str]]:
    """The rivals' rows by target, and a sentence on each: its cost, or why it is missing."""
    rows: dict[int, list[Row]] = {target: [] for target in TARGETS}
    notes = []
    for rival in RIVALS:
        try:
            found: dict[str, Any] = run(rival, field)
        except (subprocess.CalledProcessError, OSError) as error:
            notes.append(f"{rival.words}: could not be run here ({type(error).__name__})")
            continue
        cost = f"{found['us_an_item']:,.1f} us an item"
        notes.append(f"{rival.words}: {cost}, {rival.rows:,} rows of the reference, {rival.runs} runs")
        for target, line in found["targets"].items():
            measured = rate_length(line["quiet_items"], line["quiet_alarms"])
            delays = {key: Delays.of(values) for key, values in line["delays"].items()}
            rows[int(target)].append(Row(rival.words, measured, delays))
    return rows, notes


def delays(card: Card, runs_of_rivals: bool = True) -> None:
    """Both tables, and where this monitor is later than another."""
    field = card.field()
    own = Own(field)
    rivals, notes = rival_rows(field) if runs_of_rivals else ({target: [] for target in TARGETS}, [])
    print(
        f"\nMedian items from the change to the alarm (95 % interval), {RUNS} runs where the list below says no other; "
        "the change comes after 200 to 300 quiet items, runs that alarmed before it are left out. Run length: quiet "
        f"items an alarm, over up to {QUIET[0]} x {QUIET[1]:,} items, the tuning's own."
    )
    for target in TARGETS:
        _print(target, field, [*own_rows(own, target), *rivals[target]])
    print("\n" + "\n".join(f"- {note}" for note in notes))


def _print(target: int, field: Field, rows: list[Row]) -> None:
    print(f"\nTuned to {target:,} items without drift:\n")
    print("| method | run length | " + " | ".join(s.words for s in field.scenarios) + " |")
    print("| --- | ---: |" + " ---: |" * len(field.scenarios))
    for row in rows:
        print(
            f"| {row.words} | {row.run_length} | " + " | ".join(str(row.delays[s.key]) for s in field.scenarios) + " |"
        )
    own, others = rows[0], [row for row in rows if not row.words.startswith("Driftline")]
    if others:
        lost = []
        for scenario in field.scenarios:
            best = min(others, key=lambda row: row.delays[scenario.key].quantile(0.5))
            if best.delays[scenario.key].quantile(0.5) < own.delays[scenario.key].quantile(0.5):
                lost.append(f"{scenario.words} ({best.words})")
        print(f"\nLater than the best of the others: {'; '.join(lost) or 'nowhere'}.", flush=True)


def far(card: Card, runs: int = 200, share: float = 0.05, arl: int = 1_000_000) -> None:
    """5 % out-of-scope traffic at a stated run length of a million."""
    field = card.field()
    own = Own(field)
    rng = np.random.default_rng(12)
    foreign = field.corpus.pools["out_of_scope"]
    found = []
    for _ in range(runs):
        rows = rng.choice(field.partition.traffic, 4_000)
        novel = rng.random(len(rows)) < share
        found.append(own.until(MonitorSettings(arl=arl), np.where(novel, rng.choice(foreign, len(rows)), rows)))
    delay = Delays.of(found)
    shown = ", ".join(f"{name} {delay.quantile(q):,.0f}" for name, q in (("10 %", 0.1), ("90 %", 0.9), ("99 %", 0.99)))
    print(
        f"\n{share:.0%} out-of-scope from the first item on, stated run length {arl:,}, {runs} runs: median {delay} "
        f"requests (aim at most 300); quantiles: {shown}."
    )
