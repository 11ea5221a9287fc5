"""Minimum sizes: each figure is recomputed from what it claims."""

import json
from math import log

import numpy as np
import pytest
from scipy.stats import beta, betabinom

from monitoring.sizes import MIN_CALIBRATION, delay, sizes, smallest_share
from monitoring.statistics import choose_alpha0, novel_rank


def test_the_fewest_items_find_a_quarter_of_novel_traffic_in_one_window() -> None:
    assert smallest_share(MIN_CALIBRATION, choose_alpha0(MIN_CALIBRATION), 1_000_000, 256) <= 0.25
    assert smallest_share(30, choose_alpha0(30), 1_000_000, 256) > 0.25
    assert smallest_share(0, 0.05, 1_000_000, 256) > 1


def test_the_smallest_share_is_the_exact_threshold() -> None:
    rank = novel_rank(2000, 0.01)
    count = round(256 * smallest_share(2000, 0.01, 100_000, 256))
    level = 256 / 300_000
    law = betabinom(256, rank, 2001 - rank)
    assert law.sf(count - 1) <= level < law.sf(count - 2)


def test_the_delay_is_what_evidence_growing_at_its_rate_takes() -> None:
    rng = np.random.default_rng(0)
    a = float(beta.ppf(0.95, 20, 1981))
    q = 0.05 + 0.95 * 0.01
    events = rng.random((400, 3000)) < q
    evidence = np.cumsum(np.where(events, log(q / a), log((1 - q) / (1 - a))), axis=1)
    assert (evidence.max(axis=1) > log(10_000)).all()
    taken = 1 + np.argmax(evidence > log(10_000), axis=1)
    # The last step overshoots by up to log(q / a).
    assert np.mean(taken) == pytest.approx(delay(0.05, 2000, 0.01, 10_000), rel=0.15)
    assert delay(0.05, 40, 0.05, 10_000) == delay(0.05, 10, 0.05, 10_000) == float("inf")


def test_a_hundred_over_alpha0_items_know_the_rate_within_a_fifth() -> None:
    found = sizes(fit=5000, calibration=1334, replay=100, cells=40, alpha0=0.01)
    need = next(n for n in found.needs if "this very reference" in n.serves)
    assert need.need == 10_000
    rank = novel_rank(need.need, 0.01)
    low, high = beta.ppf([0.025, 0.975], rank, need.need + 1 - rank)
    assert 0.8 * 0.01 < low < high < 1.21 * 0.01


def test_a_cold_start_says_what_is_missing() -> None:
    cold = sizes(fit=5, calibration=12, replay=0, cells=1, alpha0=0.05)
    assert cold.why_not == "not calibrated yet: 12 held-out calibration items, at least 50 are needed"
    assert cold.words[0] == cold.why_not
    assert "a test of random features: 100 calibration items (12 there, 88 are missing)" in cold.words
    assert json.loads(json.dumps(cold.to_json(), allow_nan=False))["delay"] is None
    assert sizes(fit=5, calibration=60, replay=0, cells=1, alpha0=0.05).why_not == (
        "not calibrated yet: 5 fitted items, at least 20 are needed"
    )


def test_a_full_reference_lacks_nothing_and_more_items_are_never_worse() -> None:
    full = sizes(fit=50_000, calibration=20_000, replay=10_000, cells=64, alpha0=0.01)
    assert all(need.met for need in full.needs)
    assert full.why_not is None
    assert not any("missing" in words for words in full.words)
    delays = [delay(0.05, n, 0.01, 1_000_000) for n in (1000, 2000, 5000, 20_000)]
    assert delays == sorted(delays, reverse=True)
    assert delays[-1] > full.delay_at_best
