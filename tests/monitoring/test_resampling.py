"""Many columns on the same draws: the bootstrap as it is written down, and in law that of a single column."""

import numpy as np
import pytest

from monitoring import significance
from monitoring.errors import VectorsRefused
from monitoring.significance import drawn_counts, resample, resample_all

RNG = np.random.default_rng(0)
COLUMNS = {"a": RNG.normal(0.2, 1, 90), ("b", 1): (RNG.random(90) < 0.8).astype(float)}
CLUSTERS = np.repeat(np.arange(30), [1, 2, 3, 4, 5] * 6)


def test_counts_are_those_of_draws_with_replacement(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(drawn_counts(7, seed=3, n=3_000)))
    assert whole.shape == (3_000, 7)
    assert whole.dtype == np.float64
    assert (whole.sum(axis=1) == 7).all()
    # Each count is binomial(7, 1/7), and two of them covary by -1/7.
    assert whole.mean(axis=0) == pytest.approx(np.ones(7), abs=4 * np.sqrt(6 / 7 / 3_000))
    assert np.cov(whole.T) == pytest.approx(np.eye(7) - 1 / 7, abs=0.1)
    monkeypatch.setattr(significance, "_CHUNK_BYTES", 8 * 7 * 100)
    blocks = list(drawn_counts(7, seed=3, n=250))
    assert [len(block) for block in blocks] == [100, 100, 50]
    assert np.array_equal(np.concatenate(blocks), whole[:250])


@pytest.mark.parametrize("clusters", [None, CLUSTERS])
def test_every_sample_is_the_mean_of_the_drawn_items(clusters: np.ndarray | None) -> None:
    found = resample_all(COLUMNS, clusters, seed=9, n=40)
    codes = np.arange(90) if clusters is None else clusters
    draws = np.concatenate(list(drawn_counts(int(codes.max()) + 1, seed=9, n=40)))
    for name, values in COLUMNS.items():
        expected = [np.repeat(values, counts[codes].astype(int)).mean() for counts in draws]
        assert found[name].draws == pytest.approx(expected)
        assert found[name].value == pytest.approx(values.mean())
        assert (found[name].items, found[name].clusters) == (90, len(np.unique(codes)))


@pytest.mark.parametrize("clusters", [None, CLUSTERS])
def test_its_law_is_that_of_a_single_column(clusters: np.ndarray | None) -> None:
    found = resample_all(COLUMNS, clusters, seed=1, n=20_000)
    for name, values in COLUMNS.items():
        alone = resample(values, clusters, seed=2, n=20_000)
        spread = alone.draws.std()
        assert found[name].draws.std() == pytest.approx(spread, rel=0.03)
        for share in (0.025, 0.25, 0.5, 0.75, 0.975):
            first, second = (np.quantile(of.draws, share) for of in (found[name], alone))
            assert first == pytest.approx(second, abs=0.06 * spread)


def test_columns_share_their_draws_and_marks_may_be_anything() -> None:
    found = resample_all({"x": COLUMNS["a"], "y": 3 - 2 * COLUMNS["a"]}, CLUSTERS, n=200)
    assert found["y"].draws == pytest.approx(3 - 2 * found["x"].draws)
    named = resample_all({"x": COLUMNS["a"]}, [f"source {100 + code}" for code in CLUSTERS], n=200)
    assert named["x"].draws == pytest.approx(found["x"].draws)


def test_it_refuses_nonsense() -> None:
    for bad in ({}, {"a": [1.0], "b": [1.0, 2.0]}, {"a": []}, {"a": [[1.0]]}, {"a": [np.inf]}):
        with pytest.raises(VectorsRefused):
            resample_all(bad)
    with pytest.raises(VectorsRefused, match="one mark"):
        resample_all({"a": [1.0, 2.0]}, [1])
