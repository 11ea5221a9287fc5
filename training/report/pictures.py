"""Every figure of a report as PNG bytes. One that cannot be drawn is left out, and the log names its error's type."""

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from training.report.embedding_map import EmbeddingMap
from training.report.material import Material
from training.report.words import named

log = structlog.get_logger()


def draw_all(found: Material, placed: EmbeddingMap | None) -> dict[str, bytes]:
    """The figures by name: differences, curves, and as far as measured reliability, robustness and map."""
    evaluation = found.evaluation
    wanted: dict[str, Callable[[], bytes]] = {
        "differences": lambda: _differences(evaluation),
        "curves": lambda: _curves(found.fit),
        "robustness": lambda: _robustness(evaluation["robustness"]),
    }
    if evaluation["calibration"]:
        wanted["reliability"] = lambda: _reliability(evaluation["calibration"])
    if placed is not None:
        wanted["map"] = lambda: _map(placed)
    drawn = {name: _drawn(name, draw) for name, draw in wanted.items()}
    return {name: picture for name, picture in drawn.items() if picture is not None}


def _drawn(name: str, draw: Callable[[], bytes]) -> bytes | None:
    try:
        return draw()
    except Exception as error:  # noqa: BLE001 - a page without a picture is worth more than no page
        log.warning("report.not_drawn", figure=name, error=type(error).__name__)
        return None


# The drawing library is imported as late as this, so that a page can be made where it is missing.


def _differences(evaluation: Mapping[str, Any]) -> bytes:
    from training.report.figures import draw_differences

    differences = evaluation["differences"]
    return draw_differences(differences, named({metric for parts in differences.values() for metric in parts}))


def _curves(fit: Mapping[str, Any]) -> bytes:
    from training.report.curves import draw_curves

    return draw_curves(fit)


def _reliability(calibration: Mapping[str, Any]) -> bytes:
    from training.report.figures import draw_reliability

    return draw_reliability({name: told["curve"] for name, told in calibration.items()})


def _robustness(robustness: Mapping[str, Any]) -> bytes:
    from training.report.figures import draw_robustness

    return draw_robustness(robustness)


def _map(placed: EmbeddingMap) -> bytes:
    from training.report.figures import draw_map

    return draw_map(placed)
