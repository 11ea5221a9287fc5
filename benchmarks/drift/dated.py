"""Time-ordered real text: bug reports in the order of their dates, beside the same reports in random order."""

from typing import Final

import numpy as np

from benchmarks.drift.corpus import Rows
from benchmarks.drift.intervals import share
from benchmarks.drift.level import until_alarm
from benchmarks.drift.settings import Card
from monitoring.monitor_settings import MonitorSettings
from monitoring.reference import Reference

HALVES: Final = 100
PARTS: Final = (0.56, 0.32)
"""Parts of a half that are fitted and that calibrate."""
FIRST_YEARS: Final = 1_221
"""Reports of 2020 and 2021."""
STATED: Final = (1_000, 10_000)


def dated(card: Card, halves: int = HALVES) -> None:
    """Halves of the reports: one is the reference, the other arrives by date and shuffled. Then years after years."""
    reports = card.corpus.pools["reports"]
    print(
        f"\nBug reports by date. {halves} times a random half of them is the reference and the other half the stream, "
        "so that nothing but the order can differ. Share of streams with an alarm:\n"
    )
    print("| reports | stated run length | items | in random order | by date |\n| --- | ---: | ---: | ---: | ---: |")
    _halves(card, "2020 to 2024", reports, halves)
    _halves(card, "2020 and 2021", reports[:FIRST_YEARS], halves)
    print("\nReference of 2020 and 2021, stream of 2022 to 2024 by date, which may well have changed:\n")
    past, future = reports[:FIRST_YEARS], reports[FIRST_YEARS:]
    reference = _reference(card, np.random.default_rng(0).permutation(past))
    scored = reference.score(card.corpus.vectors[future])
    for arl in STATED:
        ended = until_alarm(reference, MonitorSettings(arl=arl), scored, np.arange(len(future)), 16)
        print(f"- stated {arl:,}: " + (f"alarm after {ended:,} reports" if ended else f"none in {len(future):,}"))


def _halves(card: Card, words: str, reports: Rows, halves: int) -> None:
    alarms = {(arl, by_date): 0 for arl in STATED for by_date in (False, True)}
    length = len(reports) - len(reports) // 2
    for seed in range(halves):
        order = np.random.default_rng(seed).permutation(reports)
        reference = _reference(card, order[: len(order) // 2])
        rest = order[len(order) // 2 :]
        scored = reference.score(card.corpus.vectors[rest])
        for arl, by_date in alarms:
            rows = np.argsort(rest) if by_date else np.arange(length)
            alarms[arl, by_date] += until_alarm(reference, MonitorSettings(arl=arl), scored, rows, 16) is not None
    for arl in STATED:
        shown = [share(alarms[arl, by_date], halves) for by_date in (False, True)]
        print(f"| {words} | {arl:,} | {length:,} | {' | '.join(shown)} |", flush=True)


def _reference(card: Card, rows: Rows) -> Reference:
    ends = np.cumsum([round(part * len(rows)) for part in PARTS])
    fit, calibration, _ = np.split(rows, ends)
    vectors = card.corpus.vectors
    return Reference.build(
        fit=vectors[fit],
        fit_ids=fit.tolist(),
        fit_labels=None,
        calibration=vectors[calibration],
        replay=vectors[:0],
        directions=0,
    )
