"""Thinning: a text counts once in a while, a session only so much in a minute, and the memory is bounded."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from service import thinning
from service.thinning import REPEAT_SECONDS, SESSION_SECONDS, Thinning


def keys_of(*texts):
    return [text.encode() for text in texts]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_text_counts_once_in_a_while():
    clock = Clock()
    thin = Thinning(99, clock)
    assert thin.take(keys_of("a", "b", "a"), None) == ([0, 1], 1, 0)
    clock.now = REPEAT_SECONDS - 1
    assert thin.take(keys_of("a", "c"), None) == ([1], 1, 0)
    clock.now = REPEAT_SECONDS + 1  # the first half is put aside, and remembered
    assert thin.take(keys_of("b"), None) == ([], 1, 0)
    clock.now = 2 * REPEAT_SECONDS + 2
    assert thin.take(keys_of("a", "c"), None) == ([0, 1], 0, 0)
    clock.now = 9 * REPEAT_SECONDS  # after a long silence neither half is of use
    assert thin.take(keys_of("a", "c"), None) == ([0, 1], 0, 0)


def test_a_session_has_a_share_of_a_minute_and_others_have_theirs():
    clock = Clock()
    thin = Thinning(3, clock)
    assert thin.take(keys_of("a", "b"), 1) == ([0, 1], 0, 0)
    assert thin.take(keys_of("c", "d", "a"), 1) == ([0], 1, 1)  # a repeated text takes nothing of the share
    assert thin.take(keys_of("e"), 1) == ([], 0, 1)
    assert thin.take(keys_of("f", "g"), 2) == ([0, 1], 0, 0)
    assert thin.take(keys_of("h", "i", "j", "k", "l"), None) == ([0, 1, 2, 3, 4], 0, 0)
    clock.now = SESSION_SECONDS
    assert thin.take(keys_of("m"), 1) == ([0], 0, 0)


def test_the_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(thinning, "MOST_TEXTS", 10)
    thin = Thinning(1, Clock())
    for n in range(100):
        thin.take(keys_of(str(n)), n)
    assert len(thin._recent) + len(thin._before) <= 20
    assert len(thin._sessions) <= 10
    assert thin.take(keys_of("99", "0"), None) == ([1], 1, 0)  # the newest are known, the oldest forgotten


requests = st.lists(
    st.tuples(
        st.floats(0, 300), st.lists(st.sampled_from("abcdef"), max_size=4), st.none() | st.integers(0, 2)
    ),
    max_size=60,
)  # fmt: skip


@given(requests)
def test_nothing_is_taken_too_often_and_everything_is_accounted_for(steps):
    """The rule as it is stated, against a plain record of all that was ever taken."""
    clock = Clock()
    thin = Thinning(2, clock)
    taken, minutes = {}, defaultdict(list)
    for pause, texts, session in steps:
        clock.now += pause
        rows, repeated, beyond = thin.take(keys_of(*texts), session)
        assert len(rows) + repeated + beyond == len(texts)
        assert beyond == 0 or session is not None
        for row in rows:
            assert clock.now - taken.get(texts[row], -REPEAT_SECONDS) >= REPEAT_SECONDS
            taken[texts[row]] = clock.now
            if session is not None:
                minutes[session].append(clock.now)
        for times in minutes.values():  # two tumbling minutes may meet in one sliding one
            assert sum(clock.now - at < SESSION_SECONDS for at in times) <= 4
