"""A recorded stream: what of it is refused, by row and field, and when a monitor alarms on it."""

import gzip
import io
import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from monitoring.monitor import Monitor
from monitoring.monitor_settings import MonitorSettings
from monitoring.replay_stream import replay_stream
from monitoring.stream_rows import StreamRefused, read_stream

SETTINGS = MonitorSettings(arl=10_000)
CALM = 300


def lines(*rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.fixture(scope="module")
def moved(make_vectors):
    """CALM usual vectors, then 400 of which half are foreign, one an hour."""
    rng = np.random.default_rng(3)
    vectors = np.concatenate([make_vectors(rng, CALM), make_vectors(rng, 400, foreign=0.5)])
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    return vectors, [begin + timedelta(hours=i) for i in range(len(vectors))]


def test_rows_are_read_and_ordered_by_date():
    rows = (
        {"text": "later", "at": "2024-03-02T10:00:00+02:00", "label": "b"},
        {"text": "sooner", "at": "2024-03-01", "segment": "app", "other": [1]},
        {"text": "between\u2028two", "at": 1709280000.5},
    )
    found = read_stream("s.jsonl", lines(*rows))
    assert found.texts == ("sooner", "between\u2028two", "later")
    assert found.rows == (2, 3, 1)
    assert found.at is not None
    assert [f"{at:%d %H:%M %z}" for at in found.at] == ["01 00:00 +0000", "01 08:00 +0000", "02 08:00 +0000"]
    assert (found.segments, found.labels) == (("app", None, None), (None, None, "b"))
    assert read_stream("s.jsonl.gz", gzip.compress(lines(*rows))).rows == found.rows
    table = b'text,at,segment\nlater,2024-03-02,\n"sooner, too",2024-03-01,app\n'
    found = read_stream("s.csv", table)
    assert (found.texts, found.segments) == (("sooner, too", "later"), ("app", None))
    renamed = read_stream("s.csv", b"title,date\na b,2024-03-02\n", "title", "date")
    assert renamed.at == (datetime(2024, 3, 2, tzinfo=UTC),)


def test_vectors_come_as_numbers_or_as_a_matrix():
    for name, data in (
        ("v.jsonl", lines({"vector": [3, 4]}, {"vector": [0, -2.5]})),
        ("v.csv", b"vector\n3 4\n0 -2\n"),
    ):
        found = read_stream(name, data)
        assert found.texts is None
        assert found.vectors is not None
        np.testing.assert_allclose(found.vectors, [[0.6, 0.8], [0, -1]], atol=1e-7)
    out = io.BytesIO()
    np.save(out, np.array([[3.0, 4.0]], np.float16))
    found = read_stream("v.npy", out.getvalue())
    assert found.vectors is not None
    np.testing.assert_allclose(found.vectors, [[0.6, 0.8]], atol=1e-3)


@pytest.mark.parametrize(
    ("data", "row", "field"),
    [
        (b'{"text": "a"}\n{"text": ""}\n', 2, "text"),
        (b'{"text": "a"}\n\n{"text": 7}\n', 3, "text"),
        (b'{"text": "a", "vector": [1]}\n', 1, "text"),
        (b'{"label": "a"}\n', 1, "text"),
        (b'{"text": "a"}\n{"text": \n', 2, None),
        (b'[1]\n', 1, None),
        (b'{"text": "a"}\n{"text": "\xff"}\n', 2, None),
        (b'{"text": "a", "at": "yesterday"}\n', 1, "at"),
        (b'{"text": "a", "at": true}\n', 1, "at"),
        (b'{"text": "a", "at": 1e300}\n', 1, "at"),
        (b'{"text": "a", "at": 1}\n{"text": "b"}\n', 2, None),
        (b'{"text": "a"}\n{"vector": [1]}\n', 2, None),
        (b'{"text": "a", "segment": 3}\n', 1, "segment"),
        (b'{"text": "a", "label": ""}\n', 1, "label"),
        (b'{"vector": [1, "x"]}\n', 1, "vector"),
        (b'{"vector": [1, NaN]}\n', 1, "vector"),
        (b'{"vector": [1, true]}\n', 1, "vector"),
        (b'{"vector": []}\n', 1, "vector"),
        (b'{"vector": [1, 2]}\n{"vector": [1]}\n', 2, "vector"),
        (b'{"vector": [1]}\n{"vector": [0]}\n', 2, "vector"),
        (b"\n", None, None),
        (b"[" * 100_000, 1, None),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(data, row, field):
    with pytest.raises(StreamRefused) as refused:
        read_stream("s.jsonl", data)
    assert (refused.value.row, refused.value.field) == (row, field)
    assert "yesterday" not in str(refused.value)
    for named, what in ((row, f"row {row}"), (field, f"field {field}")):
        assert named is None or what in str(refused.value)


@pytest.mark.parametrize(
    ("name", "data", "row"),
    [("s.csv", b"text\na,b\n", 1), ("s.csv", b'text\na\n"b\n', 2), ("s.npy", b"no matrix", None), ("s.txt", b"a", None),
     ("s.jsonl.gz", b"not packed", None), ("s.csv", b"", None)],
)  # fmt: skip
def test_a_bad_file_is_refused(name, data, row):
    with pytest.raises(StreamRefused) as refused:
        read_stream(name, data)
    assert refused.value.row == row


def test_an_array_of_objects_is_not_unpickled():
    out = io.BytesIO()
    np.save(out, np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(StreamRefused, match="ValueError"):
        read_stream("s.npy", out.getvalue())


def test_the_first_alarm_is_the_monitors_and_stands(small_reference, moved):
    vectors, at = moved
    found = replay_stream(small_reference, vectors, SETTINGS, at=at)
    assert len(found.raised) == 1
    raised = found.raised[0]
    assert CALM < raised.item < CALM + 100
    assert raised.at == at[raised.item - 1]
    assert abs(raised.began - CALM) < 60
    assert raised.began_at == at[raised.began - 1]
    assert (found.judged, found.quiet) == (raised.item, (raised.item,))
    assert raised.alarm.actionable
    assert raised.alarm.effects["novelty_ratio"].low > 1
    # Exactly what a monitor says that is given one vector after the other.
    monitor, item = Monitor(small_reference, SETTINGS), 0
    while not monitor.alarm_active:
        monitor.observe(vectors[item : item + 1])
        item += 1
    assert (item, raised.alarm) == (raised.item, monitor.alarm)


def test_acknowledged_alarms_come_again(small_reference, moved):
    vectors, _ = moved
    found = replay_stream(small_reference, vectors, SETTINGS, acknowledge=True)
    assert len(found.raised) > 3
    assert found.judged == found.n == len(vectors)
    assert np.cumsum(found.quiet).tolist() == [raised.item for raised in found.raised]
    assert found.raised[0].item == replay_stream(small_reference, vectors, SETTINGS).raised[0].item
    assert all(b.began > a.item for a, b in zip(found.raised, found.raised[1:], strict=False))


def test_no_drift_raises_no_alarm(small_reference, make_vectors):
    found = replay_stream(small_reference, make_vectors(np.random.default_rng(8), 700), SETTINGS)
    assert (found.raised, found.quiet, found.judged) == ((), (), 700)
    assert [(p.name, p.first, p.reading.n) for p in found.periods] == [
        ("1-256", 1, 256), ("257-512", 257, 256), ("513-700", 513, 188)
    ]  # fmt: skip


def test_periods_hold_every_item_once(small_reference, moved):
    vectors, at = moved
    by_day = replay_stream(small_reference, vectors, SETTINGS, at=at)
    assert [p.name for p in by_day.periods][:2] == ["2024-01-01", "2024-01-02"]
    by_month = replay_stream(small_reference, vectors, SETTINGS, at=at, period="month")
    assert [p.name for p in by_month.periods] == ["2024-01"]
    for found in (by_day, by_month):
        assert sum(p.reading.n for p in found.periods) == len(vectors)
        assert sum(p.alarms for p in found.periods) == 1
    whole = small_reference.score(vectors).ranks <= small_reference.novel_rank
    assert sum(p.reading.window.novel for p in by_day.periods) == int(whole.sum())
    json.dumps(by_day.to_json(), default=str, allow_nan=False)


def test_windows_judge_one_by_one(small_reference, moved):
    vectors, _ = moved
    found = replay_stream(small_reference, vectors, MonitorSettings(arl=10_000, window=64, mode="windows"))
    assert found.raised[0].item % 64 == 0
    assert found.raised[0].item > CALM


def test_a_segment_is_named(small_reference, make_vectors):
    rng = np.random.default_rng(4)
    usual, strange = make_vectors(rng, 300), make_vectors(rng, 60, foreign=1.0)
    # One in twenty of the traffic is of the segment, and all of that is foreign.
    vectors, segments = [], []
    for i, vector in enumerate(usual):
        vectors.append(vector)
        segments.append(None)
        if i % 5 == 0:
            vectors.append(strange[i // 5])
            segments.append("app")
    found = replay_stream(small_reference, np.array(vectors), SETTINGS, segments=segments)
    assert found.raised
    with pytest.raises(ValueError, match="one for each"):
        replay_stream(small_reference, np.array(vectors), SETTINGS, segments=segments[1:])
    monitor = Monitor(small_reference, SETTINGS)
    monitor.observe(np.array(vectors), segments=segments)
    assert "segment:app" in monitor.evidence_log()


def test_a_reference_that_is_not_calibrated_says_so(make_reference, make_vectors):
    rng = np.random.default_rng(2)
    found = replay_stream(make_reference(rng, 40, 10), make_vectors(rng, 64, foreign=1.0), SETTINGS)
    assert found.why_not is not None
    assert "not calibrated yet" in found.why_not
    assert not found.raised
