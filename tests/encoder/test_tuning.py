"""How the cores are used: by timing real sessions, within what the container may use."""

import threading

import numpy as np
import pytest

from encoder.errors import NoProvider
from encoder.runtime import Arrangement, Measurement, Provider, cores, observe, open_session
from encoder.runtime.machine import cpu_quota, release_memory
from encoder.runtime.tuning import MAX_STREAMS, Contest, beats, ladder


@pytest.mark.parametrize(
    ("provider", "threads", "asked", "steps"),
    [
        (Provider.CPU, 1, None, [1]),
        (Provider.OPENVINO, 2, None, [2, 1]),
        (Provider.CPU, 6, None, [6, 3, 1]),
        (Provider.OPENVINO, 64, None, [MAX_STREAMS, 4, 2, 1]),
        (Provider.CUDA, 16, None, [1, 2]),
        (Provider.CPU, 4, 3, [3]),
        (Provider.CPU, 2, 5, [2]),
    ],
)
def test_the_numbers_of_streams_that_are_tried(provider, threads, asked, steps):
    assert ladder(provider, threads, asked) == steps


def arrangement(speed, milliseconds=5.0, *, spinning=False):
    return Arrangement(2, 1, spinning, speed, milliseconds)


def test_the_faster_wins_a_tie_goes_to_the_lower_latency_and_spinning_must_gain_more():
    assert beats(arrangement(110, 9.0), arrangement(100, 1.0))
    assert not beats(arrangement(90, 1.0), arrangement(100, 9.0))
    assert beats(arrangement(98, 4.0), arrangement(100, 5.0))
    assert not beats(arrangement(102, 6.0), arrangement(100, 5.0))
    assert not beats(arrangement(98, 4.8), arrangement(100, 5.0))
    assert not beats(arrangement(110, spinning=True), arrangement(100))
    assert beats(arrangement(120, spinning=True), arrangement(100))


def enter(contest, model, steps, threads=2, proof=lambda session: Measurement(session.provider, session.precision)):
    opened = []

    def reopen(streams, spinning):
        opened.append((streams, spinning))
        return open_session(model, "cpu", "fp32", threads, streams, spinning)

    return contest.enter(reopen, steps, proof), opened


@pytest.fixture(scope="module")
def feed(blobs):
    from encoder.tokens import Tokenizer

    tokenizer = Tokenizer.from_bytes(blobs.file("tokenizer.json"), 256)
    return tokenizer.encode([f"short text {word}" for word in "abcdefghijklmn"]).ids


def test_every_arrangement_is_timed_and_the_best_is_kept_open(blobs, feed):
    contest = Contest(feed, 60.0)
    result, opened = enter(contest, blobs.file("model.onnx"), [2, 1])
    assert opened[:2] == [(2, False), (1, False)]
    assert [(a.streams, a.spinning) for a in result.tried] == opened
    assert all(a.texts_per_second > 0 < a.milliseconds for a in result.tried)
    assert contest.best == result.arrangement
    assert (contest.session.streams, contest.session.spinning) == (result.arrangement.streams, contest.best.spinning)
    assert not any(beats(a, result.arrangement) for a in result.tried if not a.spinning)


def test_after_its_time_nothing_more_is_opened(blobs, feed):
    contest = Contest(feed, 0.0)
    result, opened = enter(contest, blobs.file("model.onnx"), [2, 1])
    assert opened == [(2, False)]
    assert result.arrangement is not None
    assert contest.session.streams == 2


def test_a_hopeless_candidate_is_opened_once_and_the_better_one_stays(blobs, feed):
    contest = Contest(feed, 60.0)
    contest.best, contest.session = Arrangement(2, 2, False, 1e9, 1e-6), "the one before"
    result, opened = enter(contest, blobs.file("model.onnx"), [2, 1])
    assert opened == [(2, False)]
    assert result.texts_per_second > 0
    assert contest.session == "the one before"


def test_what_deviates_is_not_timed(blobs, feed):
    contest = Contest(feed, 60.0)
    wrong = Measurement(Provider.CPU, "fp32", error="it deviates")
    result, opened = enter(contest, blobs.file("model.onnx"), [2, 1], proof=lambda session: wrong)
    assert (result, opened, contest.session) == (wrong, [(2, False)], None)


def test_an_arrangement_that_does_not_load_does_not_cost_the_candidate_its_place(blobs, feed):
    contest = Contest(feed, 60.0)
    model = blobs.file("model.onnx")

    def reopen(streams, spinning):
        return open_session(model if streams == 2 else b"", "cpu", "fp32", 2, streams, spinning)

    result = contest.enter(reopen, [2, 1], lambda session: Measurement(session.provider, session.precision))
    assert [a.streams for a in result.tried] == [2]
    assert contest.session.streams == 2


def test_streams_of_one_session_give_the_same_vectors_at_once(blobs, feed):
    model = blobs.file("model.onnx")
    one, two = open_session(model, "cpu", "fp32", 2, 1), open_session(model, "cpu", "fp32", 2, 2)
    assert (one.streams, two.streams, two.threads) == (1, 2, 2)
    wanted, found = one.run(feed), []
    callers = [threading.Thread(target=lambda: found.append(two.run(feed))) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 2
    assert max(np.abs(vectors - wanted).max() for vectors in found) < 1e-5


def test_a_sibling_is_opened_in_the_same_way(blobs):
    session = open_session(blobs.file("model.onnx"), "cpu", "fp32", 2, 1, True)
    other = session.sibling(blobs.file("model.onnx"))
    for name in ("provider", "precision", "threads", "streams", "spinning"):
        assert getattr(other, name) == getattr(session, name)
    with pytest.raises(NoProvider):
        session.sibling(b"")


def test_inner_tensors_can_be_observed(blobs, feed):
    import onnx

    graph = onnx.load_model_from_string(blobs.file("model.onnx")).graph
    inner = next(node.output[0] for node in graph.node if node.op_type == "LayerNormalization")
    values = list(observe(blobs.file("model.onnx"), [inner], [feed, feed]))
    assert [value.shape for _, (value,) in values] == [(*batch.ids.shape, 384) for batch, _ in values]


def write(path, **files):
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)


def test_the_quota_of_a_container_is_honoured(tmp_path):
    own = tmp_path / "own"
    own.write_text("0::/system/pod/box\n")
    root = tmp_path / "cgroup"
    write(root / "system" / "pod" / "box", cpu__max="max 100000\n")
    assert cpu_quota(root, own) is None
    write(root / "system" / "pod", cpu__max="250000 100000\n")
    assert cpu_quota(root, own) == 2.5  # the limit of a group above holds as well
    write(root / "system" / "pod" / "box", cpu__max="50000 100000\n")
    assert cpu_quota(root, own) == 0.5
    write(root, cpu__max="nonsense\n")
    assert cpu_quota(root, own) == 0.5


def test_the_quota_of_older_control_groups_is_honoured(tmp_path):
    own = tmp_path / "own"
    own.write_text("9:memory:/m\n4:cpu,cpuacct:/box\n0::/\n")
    root = tmp_path / "cgroup"
    write(root / "cpu" / "box", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    assert cpu_quota(root, own) is None
    write(root / "cpu" / "box", cpu__cfs_quota_us="150000\n")
    assert cpu_quota(root, own) == 1.5
    assert cpu_quota(root, tmp_path / "absent") is None


def test_cores_are_at_least_one_and_memory_can_be_released():
    assert cores() >= 1
    release_memory()
