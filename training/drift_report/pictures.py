"""The pictures of a drift report as coordinates; the templates draw them as SVG, escaped like everything else."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

WIDTH: Final = 720
HEIGHT: Final = 240
LEFT: Final = 44
BOTTOM: Final = 26
SHOWN_CURVES: Final = 6
HIGHEST: Final = 3.0
"""Where a curve of evidence is cut off, as a part of its line: far above it nothing is left to see."""
STRIP_ROW: Final = 16
STRIP_LEFT: Final = 230
STEPS: Final = (1, 2, 5, 10)

Document = Mapping[str, Any]


def evidence(found: Document) -> dict[str, Any] | None:
    """Each detector's course as a part of its line, over the readings; None where no reading stored one."""
    curves = [one for one in found["detectors"] if any(part is not None for part in one["course"])][:SHOWN_CURVES]
    if not curves:
        return None
    n = len(found["readings"])
    highest = min(HIGHEST, max(1.2, *(part for one in curves for part in one["course"] if part is not None)))
    return {
        **_frame(_ticks(highest), highest, _dates(found["readings"], n)),
        "line": _y(1.0, highest),
        "curves": [
            {"number": i, "words": one["words"], "segments": _segments(one["course"], n, highest)}
            for i, one in enumerate(curves)
        ],
    }


def novelty(found: Document) -> dict[str, Any] | None:
    """Novelty rate of each reading beside the expected one; None without readings."""
    rates = [one["novelty_rate"] for one in found["readings"]]
    known = [rate for rate in rates if rate is not None]
    if not known:
        return None
    expected = found["reference"]["expected_novelty"]
    highest = 1.15 * max(2 * expected, *known, 0.01)
    return {
        **_frame(_ticks(highest), highest, _dates(found["readings"], len(rates)), percent=True),
        "line": _y(expected, highest),
        "curves": [{"number": 0, "words": "", "segments": _segments(rates, len(rates), highest)}],
    }


def p_values(found: Document) -> dict[str, Any] | None:
    """A bar for each bin of p-values: its share of the newest window, and the share expected; None without any."""
    told = found["p_values"]
    n = sum(told["newest"])
    if not n:
        return None
    shares = [count / n for count in told["newest"]]
    highest = 1.15 * max(*shares, *told["expected"])
    width = (WIDTH - LEFT) / len(shares)
    floor = HEIGHT - BOTTOM
    bars = [
        {"x": round(LEFT + i * width + 4, 1), "y": _y(share, highest), "width": round(width - 8, 1),
         "height": round(floor - _y(share, highest), 1), "edge": f"≤ {edge:g}", "expected": _y(usual, highest),
         "middle": round(LEFT + (i + 0.5) * width, 1), "count": count}
        for i, (share, usual, edge, count) in enumerate(
            zip(shares, told["expected"], told["edges"], told["newest"], strict=True)
        )
    ]  # fmt: skip
    return {**_frame(_ticks(highest), highest, [], percent=True), "bars": bars}


def strip(found: Document) -> dict[str, Any] | None:
    """A row a neighbourhood, a box a reading: the stronger the colour, the farther from its expected share."""
    told = found["occupancy"]
    if not told["cells"]:
        return None
    width = (WIDTH - STRIP_LEFT) / len(told["at"])
    rows = [
        {
            "y": i * STRIP_ROW, "name": cell["name"],
            "boxes": [
                {"x": round(STRIP_LEFT + j * width, 2), "more": z >= 0, "z": z,
                 "opacity": round(min(1.0, abs(z) / 6), 2)}
                for j, z in enumerate(cell["z"])
            ],
        }
        for i, cell in enumerate(told["cells"])
    ]  # fmt: skip
    return {
        "rows": rows, "width": round(max(0.5, width - 0.6), 2), "height": len(rows) * STRIP_ROW,
        "first": _date(told["at"][0]), "last": _date(told["at"][-1]),
    }  # fmt: skip


def plane(found: Document) -> dict[str, Any]:
    """The reference's items as dots, and a circle a neighbourhood: its area is the newest window's count there."""
    told = found["map"]
    points = [*told["fit"], *(cell["place"] for cell in told["cells"])]
    low = [min(point[axis] for point in points) for axis in (0, 1)]
    high = [max(point[axis] for point in points) for axis in (0, 1)]
    side = 480.0
    # One scale for both axes: a distance is the same in any direction.
    scale = (side - 60) / max(high[0] - low[0], high[1] - low[1], 1e-9)

    def place(point: Sequence[float]) -> tuple[float, float]:
        return round(30 + (point[0] - low[0]) * scale, 1), round(side - 30 - (point[1] - low[1]) * scale, 1)

    largest = max([1.0, *(max(cell["count"], cell["expected"]) for cell in told["cells"])])
    circles = []
    for cell in told["cells"]:
        x, y = place(cell["place"])
        radius, usual = (round(26 * math.sqrt(cell[name] / largest), 1) for name in ("count", "expected"))
        many = cell["count"] > 2 * cell["expected"] + 3
        circles.append({"x": x, "y": y, "radius": radius, "usual": usual, "many": many, "name": cell["name"],
                        "count": cell["count"], "expected": cell["expected"]})  # fmt: skip
    return {"side": side, "dots": [place(point) for point in told["fit"]], "circles": circles}


def _frame(
    ticks: Sequence[float], highest: float, dates: Sequence[dict[str, Any]], *, percent: bool = False
) -> dict[str, Any]:
    return {
        "width": WIDTH, "height": HEIGHT, "left": LEFT, "floor": HEIGHT - BOTTOM, "dates": dates,
        "ticks": [{"y": _y(t, highest), "words": f"{100 * t:g} %" if percent else f"{t:g}"} for t in ticks],
    }  # fmt: skip


def _x(i: int, n: int) -> float:
    return round(LEFT + 8 + (WIDTH - LEFT - 16) * (i / (n - 1) if n > 1 else 0.5), 1)


def _y(value: float, highest: float) -> float:
    return round(8 + (HEIGHT - BOTTOM - 8) * (1 - min(value, highest) / highest), 1)


def _segments(values: Sequence[float | None], n: int, highest: float) -> list[list[tuple[float, float]]]:
    """The points of a curve, parted where values are missing."""
    parts: list[list[tuple[float, float]]] = [[]]
    for i, value in enumerate(values):
        if value is not None:
            parts[-1].append((_x(i, n), _y(value, highest)))
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def _ticks(highest: float) -> list[float]:
    """Round numbers from 0 on, four to nine of them."""
    power = 10 ** math.floor(math.log10(highest / 4)) if highest > 0 else 1.0
    step = next(power * s for s in STEPS if highest / (power * s) <= 8)
    return [round(step * i, 10) for i in range(int(highest / step) + 1)]


def _dates(readings: Sequence[Mapping[str, Any]], n: int) -> list[dict[str, Any]]:
    """First, middle and last date, below the axis."""
    chosen = dict.fromkeys((0, n // 2, n - 1)) if n > 4 else dict.fromkeys((0, n - 1))
    return [{"x": _x(i, n), "words": _date(readings[i]["at"])} for i in chosen]


def _date(at: Any) -> str:
    return f"{at:%m-%d %H:%M}"
