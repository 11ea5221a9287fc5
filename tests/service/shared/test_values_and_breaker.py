"""What is believed of a stored value, and when the breaker lets callers ask; no server is needed for either."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.breaker import FAILURES_TO_OPEN, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Breaker, BreakerState
from service.cache import Entry
from service.shared_values import ValueFormat

KEY = b"k" * 16
VECTOR = np.linspace(-1, 1, 8, dtype=np.float32)


def signed(body: bytes) -> bytes:
    """A value as somebody makes it who knows the format; there is no secret."""
    digest = hashlib.blake2b(KEY + body, digest_size=16, person=b"driftline value")
    return body + digest.digest()


def test_a_value_comes_back_as_it_went():
    for secret in (b"", b"a secret of some length" * 9):
        form = ValueFormat(secret)
        value = form.encode(KEY, Entry(VECTOR, 70_000, True))
        assert len(value) == 12 + 32 + 16
        found = form.decode(KEY, value, 8)
        assert found == Entry(found.vector, 70_000, True)
        assert found.vector.tobytes() == VECTOR.tobytes()
        assert found.vector.flags.writeable
        assert ValueFormat(b"another").decode(KEY, value, 8) is None
        assert form.decode(b"K" * 16, value, 8) is None
        assert form.decode(KEY, value, 7) is None


def test_the_bytes_of_version_1_stay_as_they_are():
    body = struct.pack("<BBHII", 1, 1, 0, 8, 5) + VECTOR.astype("<f4").tobytes()
    assert ValueFormat().encode(KEY, Entry(VECTOR, 5, True)) == signed(body)
    assert ValueFormat().decode(KEY, signed(body), 8) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"version": 0}, {"flags": 2}, {"zero": 1}, {"size": 9}, {"size": 2**32 - 1}, {"tokens": 0},
        {"last": np.nan}, {"last": np.inf}, {"last": -np.inf},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_signed_but_senseless_is_refused(change):
    head = {"version": 1, "flags": 0, "zero": 0, "size": 8, "tokens": 5, "last": 1.0, **change}
    last = head.pop("last")
    vector = VECTOR.copy()
    vector[-1] = last
    assert ValueFormat().decode(KEY, signed(struct.pack("<BBHII", *head.values()) + vector.tobytes()), 8) is None


@given(st.one_of(st.binary(max_size=80), st.none(), st.integers(), st.text(), st.lists(st.binary())))
def test_anything_else_is_refused(value):
    assert ValueFormat().decode(KEY, value, 8) is None


@given(st.integers(0, 8 * 60 - 1))
def test_one_flipped_bit_is_seen(bit):
    value = bytearray(ValueFormat().encode(KEY, Entry(VECTOR, 5, False)))
    value[bit // 8] ^= 1 << bit % 8
    assert ValueFormat().decode(KEY, bytes(value), 8) is None


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def probe(breaker: Breaker, answered: bool) -> None:
    breaker.probe()
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.closed
    breaker.probed(answered)


def test_the_breaker_opens_after_failures_in_a_row_only():
    breaker = Breaker(Clock())
    assert breaker.state is BreakerState.OPEN
    assert breaker.pause() == 0
    probe(breaker, True)
    for _ in range(5):
        assert [breaker.failed() for _ in range(FAILURES_TO_OPEN - 1)] == [False] * (FAILURES_TO_OPEN - 1)
        breaker.succeeded()
    opened = [breaker.failed() for _ in range(FAILURES_TO_OPEN)]
    assert opened == [False] * (FAILURES_TO_OPEN - 1) + [True]
    assert not breaker.failed()  # an answer that was still under way
    assert breaker.state is BreakerState.OPEN


def middle(breaker: Breaker) -> float:
    pauses = [breaker.pause() for _ in range(300)]
    assert max(pauses) <= 1.25 * np.mean(pauses) * 1.1
    return float(np.mean(pauses))


def test_pauses_grow_until_the_server_stays():
    clock = Clock()
    breaker = Breaker(clock)
    for n in range(12):
        probe(breaker, False)
        expected = min(FIRST_PAUSE_SECONDS * 2**n, LONGEST_PAUSE_SECONDS)
        assert middle(breaker) == pytest.approx(expected, rel=0.1)
    # It answers the probe and fails at once under load: no quarter of a second again.
    probe(breaker, True)
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed()
    assert middle(breaker) == pytest.approx(LONGEST_PAUSE_SECONDS, rel=0.1)
    probe(breaker, True)
    clock.now += LONGEST_PAUSE_SECONDS + 1
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed()
    assert middle(breaker) == pytest.approx(FIRST_PAUSE_SECONDS, rel=0.1)
