"""Who counts as silent, by a clock that the test turns."""

from training.silence import Silence


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_worker_is_silent_once_its_beats_stand_still_for_long_enough() -> None:
    clock = Clock()
    silence = Silence(60.0, clock)
    found = []
    for beat in range(0, 100, 5):  # a stops beating at 20 seconds, b goes on
        clock.now = 1000.0 + beat
        found.append(silence.look({"a": min(beat, 20), "b": beat}))
    assert [each for each in found if each] == [{"a": 20}] * 4  # at 80, 85, 90 and 95
    clock.now += 5
    assert silence.look({"a": 21, "b": 95}) == {}  # it beats again


def test_time_in_which_nobody_looked_is_no_silence() -> None:
    clock = Clock()
    silence = Silence(60.0, clock)
    for _ in range(6):
        assert silence.look({"a": 1}) == {}
        clock.now += 9.0
    # The database was away for both, or this process was frozen: the wait begins anew.
    clock.now += 300.0
    assert silence.look({"a": 1}) == {}
    for _ in range(6):
        clock.now += 9.0
        assert silence.look({"a": 1}) == {}
    clock.now += 9.0
    assert silence.look({"a": 1}) == {"a": 1}


def test_a_worker_that_leaves_and_comes_back_is_known_from_then_on() -> None:
    clock = Clock()
    silence = Silence(10.0, clock)
    silence.look({"a": 1})
    clock.now += 4.0
    silence.look({})
    clock.now += 4.0
    silence.look({"a": 1})
    clock.now += 4.0
    assert silence.look({"a": 1}) == {}
