"""A reference: what it says of vectors, what it refuses, and that its bytes are its identity."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from monitoring.errors import ReferenceRefused, VectorsRefused
from monitoring.evaluate import evaluate
from monitoring.monitor_settings import MonitorSettings
from monitoring.reference import Reference, split_held_out
from monitoring.two_sample import confirm
from monitoring.window import Window

Draw = Callable[..., NDArray[np.float32]]


def test_bytes_and_back_are_bit_equal_and_the_digest_names_them(small_reference: Reference, make_vectors: Draw) -> None:
    data = small_reference.to_bytes()
    again = Reference.from_bytes(data)
    assert again.to_bytes() == data
    assert again.digest == small_reference.digest
    assert again.cells == small_reference.cells
    x = make_vectors(np.random.default_rng(1), 50, foreign=0.2)
    assert np.array_equal(again.novelty(x), small_reference.novelty(x))
    assert np.array_equal(again.assign(x), small_reference.assign(x))
    assert again.version_info == {"adapter": "banking", "version": 7}


def test_calibration_vectors_are_kept_in_the_order_of_their_scores(small_reference: Reference) -> None:
    assert small_reference.calibration is not None
    similarities, _ = small_reference.neighbors(small_reference.calibration, small_reference.k)
    scores = 1 - similarities.astype(np.float64).mean(axis=1)
    assert scores == pytest.approx(small_reference.calibration_scores, abs=1e-6)
    cells = np.bincount(small_reference.assign(small_reference.calibration), minlength=len(small_reference.cells))
    assert np.array_equal(cells, small_reference.calibration_cells)


def test_features_are_computed_where_they_are_asked_for(small_reference: Reference, make_vectors: Draw) -> None:
    x = make_vectors(np.random.default_rng(9), 20)
    features = small_reference.features
    assert features is not None
    assert small_reference.score(x).features is None
    assert small_reference.score(x).feature_sums == ()
    mask = np.arange(20) % 3 == 0
    by_mask, by_row = small_reference.score(x, mask), small_reference.score(x, np.flatnonzero(mask))
    for found in (by_mask, by_row):
        assert found.features is not None
        assert np.array_equal(found.features[mask], features.of(x[mask]))
        assert not found.features[~mask].any()
    assert by_mask.feature_sums == tuple(features.of(x[mask]).sum(axis=0, dtype=np.int64).tolist())
    parts = [by_mask.part(0, 7).feature_sums, by_mask.rows(np.arange(7, 20)).feature_sums]
    assert tuple(map(sum, zip(*parts, strict=True))) == by_mask.feature_sums
    assert small_reference.score(x, np.zeros(0, np.int64)).feature_sums == (0,) * features.size
    with pytest.raises(VectorsRefused, match="a mask over 20 vectors"):
        small_reference.score(x, mask[:5])


def test_a_reference_of_format_1_reads_as_it_was_written(small_reference: Reference, make_vectors: Draw) -> None:
    """The file that older releases wrote: no calibration vectors, no features; its digest must stay what it is."""
    old = replace(small_reference, calibration=None, features=None)
    data = old.to_bytes()
    assert set(load(data)) == {"fit", "replay", "centroids", "calibration_scores", "calibration_cells", "words"}
    assert json.loads(load(data)["words"].tobytes())["format"] == 1
    again = Reference.from_bytes(data)
    assert again.to_bytes() == data
    assert again.digest == hashlib.sha256(data).hexdigest() != small_reference.digest
    x = make_vectors(np.random.default_rng(1), 300, foreign=0.5)
    assert np.array_equal(again.novelty(x), small_reference.novelty(x))
    scored = again.score(x, np.arange(300))
    assert scored.features is None
    reading = evaluate(Window.of(again, scored), again, MonitorSettings())
    assert [s.name for s in reading.statistics] == ["novelty", "occupancy"]
    assert reading.statistics[0].level == MonitorSettings().level(300, 2)
    assert reading.alarm
    assert confirm(again, x) is None


def test_features_judge_a_window_as_the_third_statistic(small_reference: Reference, make_vectors: Draw) -> None:
    rng = np.random.default_rng(10)
    quiet, loud = (
        evaluate(
            Window.of(small_reference, small_reference.score(make_vectors(rng, 256, foreign=share), np.arange(256))),
            small_reference,
            MonitorSettings(),
        )
        for share in (0.0, 0.6)
    )
    assert "mmd" not in quiet.alarms
    assert "mmd" in loud.alarms
    found = loud.statistic("mmd")
    assert found.level == MonitorSettings().level(256, 3)
    assert found.value > found.threshold
    assert found.interval is not None
    assert found.interval[0] <= found.effect <= found.interval[1]


def test_the_same_parts_build_the_same_reference(make_reference: Callable[..., Reference]) -> None:
    first, second = (make_reference(np.random.default_rng(4), n_fit=200, n_cal=100) for _ in range(2))
    assert first.digest == second.digest


def test_p_values_follow_the_definition(small_reference: Reference, make_vectors: Draw) -> None:
    x = make_vectors(np.random.default_rng(2), 20)
    similarity = np.sort(x.astype(np.float64) @ small_reference.fit.T.astype(np.float64), axis=1)[:, -10:]
    scores = 1 - similarity.mean(axis=1)
    expected = [(1 + (small_reference.calibration_scores >= s).sum()) / 601 for s in scores]
    assert small_reference.novelty(x) == pytest.approx(expected, abs=1.5 / 601)
    assert small_reference.alpha0 == 0.02
    assert small_reference.novel_rank == 12


def test_neighbors_are_exact_and_named(small_reference: Reference) -> None:
    scores, rows = small_reference.neighbors(small_reference.fit[[3, 70]], 5)
    assert rows[:, 0].tolist() == [3, 70]
    assert scores[:, 0] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert small_reference.fit_ids[70] == "70"
    assert small_reference.neighbors(small_reference.fit[:1], 10_000)[1].shape == (1, 800)


def test_cells_are_large_enough_and_described(small_reference: Reference) -> None:
    counts = small_reference.calibration_cells
    assert counts.min() >= 8
    assert counts.sum() == small_reference.n_cal == 600
    assert 10 <= len(small_reference.cells) <= 24
    for cell in small_reference.cells:
        assert len(cell.medoids) == 5
        assert cell.label == cell.labels[0][0]
        members = small_reference.assign(small_reference.fit[[int(m) for m in cell.medoids]])
        assert (members == cell.index).all()
    assert sum(c.share for c in small_reference.cells) == pytest.approx(1.0)


@pytest.mark.parametrize(("n_cal", "calibrated"), [(0, False), (1, False), (49, False), (50, True), (130, True)])
def test_few_calibration_items_are_said_and_never_alarm(
    make_reference: Callable[..., Reference], make_vectors: Draw, n_cal: int, calibrated: bool
) -> None:
    from monitoring.monitor import Monitor

    rng = np.random.default_rng(n_cal)
    reference = Reference.from_bytes(make_reference(rng, n_fit=100, n_cal=n_cal).to_bytes())
    assert reference.calibrated is calibrated
    monitor = Monitor(reference, MonitorSettings(mode="windows"))
    (reading,) = monitor.observe(make_vectors(rng, 256, foreign=1.0)).readings
    assert reading.alarm is calibrated
    if not calibrated:
        assert reading.why_not == f"not calibrated yet: {n_cal} held-out calibration items, at least 50 are needed"


def test_few_fitted_items_are_said_too(make_reference: Callable[..., Reference]) -> None:
    reference = make_reference(np.random.default_rng(0), n_fit=3, n_cal=100)
    assert reference.why_not == "not calibrated yet: 3 fitted items, at least 20 are needed"


@pytest.mark.parametrize("n", [0, 40, 60, 180, 3000])
def test_held_out_rows_are_split_without_overlap(n: int) -> None:
    calibration, replay = split_held_out(n, seed=1)
    assert sorted([*calibration.tolist(), *replay.tolist()]) == list(range(n))
    assert len(calibration) == min(n, max(50, round(2 * n / 3)))


def test_held_out_clusters_stay_on_one_side_and_count_for_a_few_rows() -> None:
    clusters = np.random.default_rng(0).permutation(np.concatenate([np.arange(150), np.full(80, 200), np.full(9, 300)]))
    for seed in range(8):
        calibration, replay = split_held_out(len(clusters), seed=seed, clusters=clusters)
        assert not set(clusters[calibration]) & set(clusters[replay])
        assert np.bincount(clusters[calibration]).max() <= 3
        # Of 156 rows that may count, two thirds.
        assert 104 <= len(calibration) <= 106
        assert len(set(calibration.tolist()) | set(replay.tolist())) == len(calibration) + len(replay)
    one, rest = split_held_out(70, clusters=np.zeros(70, np.int64))
    assert (len(one), len(rest)) == (3, 0)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((3, 5)), "dimension 5, expected 24"),
        (np.full((2, 24), np.nan), "2 vectors hold a NaN"),
        (np.zeros(24), "must be a matrix"),
    ],
)
def test_unsound_vectors_are_refused(small_reference: Reference, vectors: NDArray[np.float64], message: str) -> None:
    with pytest.raises(VectorsRefused, match=message):
        small_reference.score(vectors)


def test_parts_that_do_not_fit_together_are_refused(make_vectors: Draw) -> None:
    x = make_vectors(np.random.default_rng(0), 30)
    with pytest.raises(VectorsRefused, match="one length"):
        Reference.build(fit=x, fit_ids=["a"], fit_labels=None, calibration=x, replay=x)
    with pytest.raises(VectorsRefused, match="at least one fit vector"):
        Reference.build(fit=x[:0], fit_ids=[], fit_labels=None, calibration=x, replay=x)


def test_damaged_bytes_are_refused(small_reference: Reference) -> None:
    data = small_reference.to_bytes()
    tensors = load(data)
    short = {**tensors, "fit": tensors["fit"][:10]}
    unsorted = {**tensors, "calibration_scores": tensors["calibration_scores"][::-1].copy()}
    typed = {**tensors, "replay": tensors["replay"].astype(np.float64)}
    missing = {name: t for name, t in tensors.items() if name != "words"}
    fewer = {**tensors, "calibration": tensors["calibration"][:10]}
    narrow = {**tensors, "directions": tensors["directions"][:, :3].copy()}
    rising = {**tensors, "spectrum": tensors["spectrum"][::-1].copy()}
    halved = {name: t for name, t in tensors.items() if name != "feature_mean"}
    damaged = [save(bad) for bad in (short, unsorted, typed, missing, fewer, narrow, rising, halved)]
    for bad in (b"", b"hello", data[:-100], *damaged):
        with pytest.raises(ReferenceRefused):
            Reference.from_bytes(bad)
