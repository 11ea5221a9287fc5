"""The figures: PNGs of the stated size, whatever is missing in the numbers, and without a string of the dataset."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.report.canvas import DPI
from training.report.curves import PANELS, draw_curves
from training.report.embedding_map import map_labels
from training.report.figures import draw_differences, draw_map, draw_reliability, draw_robustness
from training.report.material import Material
from training.report.words import named


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def accents(image: Image.Image) -> int:
    """Pixels in the candidate's colour, more or less."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return int((np.abs(pixels - np.array([15, 111, 140])).max(axis=2) < 40).sum())


def test_the_curves_show_every_panel_that_is_known(make_material: Callable[..., Material]) -> None:
    fit = dict(make_material().fit)
    whole = opened(draw_curves(fit))
    assert whole.format == "PNG"
    assert whole.size[0] == round(9.6 * DPI)
    assert whole.size[1] == round(3 * 2.35 * DPI)
    assert accents(whole) > 1000
    few: dict[str, Any] = {**fit, "geometry": {"step": [0, 20, 40, 60], "loss": [None, 1.0, 0.9, None]}}
    assert opened(draw_curves(few)).size[1] == round(2.35 * DPI)
    bare = {name: value for name, value in fit.items() if name != "geometry"}
    assert opened(draw_curves(bare)).size[1] == round(2.35 * DPI)


def test_every_measure_of_the_watch_is_drawn(make_material: Callable[..., Material]) -> None:
    drawn = {name for panel in PANELS for name, _ in panel.curves} | {
        name for panel in PANELS for name in panel.band or ()
    }
    measured = set(make_material().fit["geometry"]) - {"step", "margin_below_zero"}
    assert drawn == measured | {"score"}


def test_equal_numbers_give_equal_bytes(make_material: Callable[..., Material]) -> None:
    fit = make_material().fit
    assert draw_curves(fit) == draw_curves(fit)


@pytest.mark.parametrize("rivals", [("base",), ("base", "champion")])
def test_the_other_figures(make_material: Callable[..., Material], rivals: tuple[str, ...]) -> None:
    evaluation = make_material().evaluation
    differences = {rival: evaluation["differences"][rival] for rival in rivals}
    assert accents(opened(draw_differences(differences, named(differences["base"])))) > 50
    curves = {name: found["curve"] for name, found in evaluation["calibration"].items()}
    assert accents(opened(draw_reliability(curves))) > 50
    assert accents(opened(draw_robustness(evaluation["robustness"]))) > 50


def test_the_map_draws_labels_as_letters(make_material: Callable[..., Material]) -> None:
    material = make_material()
    placed = map_labels(material.items, material.base, material.candidate, [])
    assert placed is not None
    assert placed.names
    image = opened(draw_map(placed))
    assert image.size == (round(9.6 * DPI), round(4.5 * DPI))
