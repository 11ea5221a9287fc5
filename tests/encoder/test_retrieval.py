"""The retrieval probe: a score that can be counted by hand, and a file that is read strictly."""

import json

import numpy as np
import pytest

from encoder.errors import ArtifactRefused
from encoder.retrieval import Retrieval

SMALL = Retrieval(("q", "right", "near", "far"), ((1,), (), (), ()))


def unit(*angles):
    return np.array([[np.cos(a), np.sin(a)] for a in np.radians(angles)], np.float32)


@pytest.mark.parametrize(
    ("angles", "score"),
    [
        ((0, 1, 5, 90), 100.0),
        ((0, 10, 5, 90), 100 / np.log2(3)),
        ((0, 95, 5, 90), 100 / np.log2(4)),
    ],
)
def test_the_score_falls_with_the_rank_of_the_answer(angles, score):
    assert SMALL.score(unit(*angles)) == pytest.approx(score)


def test_several_answers_and_queries_are_averaged_and_no_text_finds_itself():
    probe = Retrieval(("q", "a", "b", "c"), ((1, 2), (0,), (), ()))
    ideal = 1 + 1 / np.log2(3)
    first = (1 + 1 / np.log2(4)) / ideal  # of q: a at rank 1, b at rank 3
    assert probe.score(unit(0, 1, 9, 3)) == pytest.approx(100 * (first + 1) / 2)


def test_answers_beyond_the_tenth_place_count_nothing():
    texts = tuple(f"t{index}" for index in range(14))
    probe = Retrieval(texts, ((13,), *[()] * 13))
    assert probe.score(unit(*range(14))) == 0.0


def test_the_real_model_answers_most_and_a_text_of_noise_nothing(blobs, encoder):
    probe = Retrieval.from_bytes(blobs.file("retrieval.json"))
    score = probe.measure(encoder.tokenizer, encoder.session.run)
    assert score == pytest.approx(blobs.manifest.precisions["fp32"].retrieval, abs=0.02)
    assert 60 < score < 90  # far from both ends: it can fall, and a better model could rise
    assert sum(map(bool, probe.relevant)) > 100
    noise = np.random.default_rng(0).normal(size=(len(probe.texts), 384)).astype(np.float32)
    assert probe.score(noise / np.linalg.norm(noise, axis=1, keepdims=True)) < 10


def test_a_probe_survives_its_bytes():
    assert Retrieval.from_bytes(SMALL.to_bytes()) == SMALL


@pytest.mark.parametrize(
    "change",
    [
        {"texts": ["q", "right", "near", ""]},
        {"texts": ["q", "right", "near", 4]},
        {"texts": 4},
        {"texts": ["q", "right"]},
        {"relevant": [[1], [], []]},
        {"relevant": [[], [], [], []]},
        {"relevant": [[4], [], [], []]},
        {"relevant": [[0], [], [], []]},
        {"relevant": [[1, 1], [], [], []]},
        {"relevant": [["1"], [], [], []]},
        {"relevant": [[True], [], [], []]},
        {"relevant": [1, 2, 3, 4]},
    ],
)
def test_what_is_no_probe_is_refused(change):
    value = {**json.loads(SMALL.to_bytes()), **change}
    with pytest.raises(ArtifactRefused, match=r"retrieval\.json"):
        Retrieval.from_bytes(json.dumps(value).encode())
