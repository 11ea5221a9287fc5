"""Temperatures: where schedules begin and end, and that a learned one moves with its gradient and stays in bounds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.losses import info_nce
from training.temperature import LEAST, MOST, Temperature


def value(temperature: Temperature) -> float:
    return float(torch.as_tensor(temperature.at(1)).detach())


def test_a_fixed_temperature_never_changes() -> None:
    fixed = Temperature(0.1, steps=50)
    assert {fixed.at(step) for step in (1, 25, 50, 80)} == {0.1}
    assert not list(fixed.parameters())


@given(
    schedule=st.sampled_from(["linear", "cosine"]),
    start=st.floats(0.005, 2),
    end=st.floats(0.005, 2),
    steps=st.integers(2, 300),
)
def test_schedules_go_from_start_to_end_without_turning(schedule: str, start: float, end: float, steps: int) -> None:
    temperature = Temperature(start, schedule, end, steps)
    values = [float(temperature.at(step)) for step in range(1, steps + 1)]
    assert values[0] == pytest.approx(start)
    assert values[-1] == pytest.approx(end)
    assert float(temperature.at(steps + 5)) == values[-1]
    assert values == sorted(values, reverse=end < start)


def test_half_way_the_cosine_is_half_way_and_a_quarter_in_it_lags() -> None:
    linear, cosine = (Temperature(0.2, name, 0.1, 101) for name in ("linear", "cosine"))
    assert cosine.at(51) == pytest.approx(0.15)
    assert cosine.at(26) == pytest.approx(0.2 - 0.1 * (1 - math.cos(math.pi / 4)) / 2)
    assert linear.at(26) == pytest.approx(0.175)


@pytest.mark.parametrize(("own", "foreign", "bound"), [(0.5, 0.45, LEAST), (0.0, 0.8, MOST)])
def test_a_learned_temperature_follows_its_gradient_to_its_bound(own: float, foreign: float, bound: float) -> None:
    """Well separated pairs want it sharp; pairs that lie farther apart than foreign texts want it flat."""
    second = [own, foreign, math.sqrt(max(0.0, 1 - own**2 - foreign**2))]
    third = [foreign, own, second[2]]
    anchors, positives = torch.eye(3)[:2], torch.tensor([second, third])
    learned = Temperature(0.1, "learned")
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.05)
    ids = torch.arange(2)
    for step in range(1, 200):
        optimizer.zero_grad()
        info_nce(anchors, positives, learned.at(step), anchor_ids=ids, positive_ids=ids + 2).backward()
        optimizer.step()
        learned.clamp()
    assert value(learned) == pytest.approx(bound, rel=1e-3)


def test_bounds_hold_on_both_sides_and_make_room_for_the_start() -> None:
    for start, moved, wanted in ((0.1, 9.0, MOST), (0.1, -9.0, LEAST), (0.8, 9.0, 0.8), (0.005, -9.0, 0.005)):
        learned = Temperature(start, "learned")
        assert learned.logarithm is not None
        with torch.no_grad():
            learned.logarithm.add_(moved)
        learned.clamp()
        assert value(learned) == pytest.approx(wanted)


def test_mistakes_are_refused() -> None:
    for arguments in ((0.1, "stairs"), (0.0,), (0.1, "linear"), (0.1, "cosine", -1.0)):
        with pytest.raises(ValueError, match="temperature"):
            Temperature(*arguments)  # type: ignore[arg-type]
