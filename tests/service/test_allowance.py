"""The allowance: what is taken of a rate, and what quieter times leave for later."""

from hypothesis import given
from hypothesis import strategies as st

from service.allowance import Allowance


def test_it_comes_back_with_time_up_to_a_limit():
    now = [0.0]
    allowance = Allowance(10, 30, lambda: now[0])
    assert [allowance.take(20), allowance.take(20), allowance.take(1)] == [20, 10, 0]
    now[0] = 0.55
    assert [allowance.take(9), allowance.take(9)] == [5, 0]
    now[0] = 0.61
    assert allowance.take(9) == 1  # the half that was left over counts
    now[0] = 1000.0
    assert allowance.take(100) == 30


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 50)), max_size=50))
def test_never_more_than_the_rate_and_what_it_held(steps):
    now, taken = [0.0], 0
    allowance = Allowance(7, 20, lambda: now[0])
    for pause, wanted in steps:
        now[0] += pause
        got = allowance.take(wanted)
        assert 0 <= got <= wanted
        taken += got
        assert taken <= 20 + 7 * now[0] + 1e-6
