"""A reference: what it says of vectors, what it refuses, and that its bytes are its identity."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from monitoring.errors import ReferenceRefused, VectorsRefused
from monitoring.reference import Reference, split_held_out

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
    (reading,) = Monitor(reference).observe(make_vectors(rng, 256, foreign=1.0))
    assert reading.alarm is calibrated
    if not calibrated:
        assert reading.why_not == f"not calibrated: {n_cal} held-out calibration items, at least 50 are needed"


def test_few_fitted_items_are_said_too(make_reference: Callable[..., Reference]) -> None:
    reference = make_reference(np.random.default_rng(0), n_fit=3, n_cal=100)
    assert reference.why_not == "not calibrated: 3 fitted items, at least 20 are needed"


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
    for bad in (b"", b"hello", data[:-100], save(short), save(unsorted), save(typed), save(missing)):
        with pytest.raises(ReferenceRefused):
            Reference.from_bytes(bad)
