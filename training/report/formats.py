"""How values are written on the page: points, intervals, counts, and texts that are shortened and made harmless.

Escaping is not done here: the template engine escapes whatever these functions return.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

CUT: Final = 160
_JOINERS: Final = "\u200c\u200d"
"""Zero-width characters that some scripts and emoji need."""
_MINUS: Final = "\u2212"
_DASH: Final = "–"

Estimate = Mapping[str, Any]


def short(text: object, most: int = CUT) -> str:
    """A text of a dataset on one line of at most `most` characters.

    Characters that cannot be seen (controls, marks that turn the direction of writing, lone surrogates) become U+FFFD:
    they could break the file or make a line read as something else.
    """
    line = " ".join(str(text)[: 8 * most].split())
    seen = "".join(c if c.isprintable() or c in _JOINERS else "\ufffd" for c in line)
    return seen if len(seen) <= most else seen[: most - 1].rstrip() + "…"


def decimals(value: float | None, places: int = 2) -> str:
    """A number with so many decimals and a true minus sign; a dash where it is not known."""
    if value is None or not math.isfinite(value):
        return _DASH
    return f"{value:.{places}f}".replace("-", _MINUS)


def signed_decimals(value: float | None, places: int = 2) -> str:
    """As `decimals`, with a plus sign where it is not below 0."""
    if value is None or not math.isfinite(value):
        return _DASH
    return f"{value:+.{places}f}".replace("-", _MINUS)


def points(value: float | None) -> str:
    """A score in points: 0.9347 is 93.5."""
    return decimals(None if value is None else 100 * value, 1)


def signed(value: float) -> str:
    """A difference in points with its sign."""
    return signed_decimals(100 * value, 2)


def percent(value: float | None) -> str:
    """A share, such as 93 %."""
    return _DASH if value is None or not math.isfinite(value) else f"{100 * value:.0f}\u00a0%"


def interval(found: Estimate) -> str:
    """The bounds of an estimate in points."""
    return f"{points(found['low'])} to {points(found['high'])}"


def signed_interval(found: Estimate) -> str:
    """The bounds of a difference in points."""
    return f"{signed(found['low'])} to {signed(found['high'])}"


def sided(found: Estimate) -> str:
    """ "yes" where a difference lies above 0 beyond its interval, "no" where it lies below, and nothing in between."""
    if found["low"] > 0:
        return "yes"
    return "no" if found["high"] < 0 else ""


def count(value: int) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u2009")


def plain(value: object) -> str:
    """A recipe's value as a person would write it."""
    if value is None:
        return _DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(inner)}" for name, inner in value.items()) or _DASH
    if isinstance(value, list | tuple):
        return ", ".join(plain(inner) for inner in value) or _DASH
    return f"{value:g}" if isinstance(value, float) else str(value)


def brief(digest: str) -> str:
    """The first twelve digits of a digest."""
    return digest[:12]


FILTERS: Final[Mapping[str, Callable[..., str]]] = {
    "short": short,
    "decimals": decimals,
    "signed_decimals": signed_decimals,
    "points": points,
    "signed": signed,
    "percent": percent,
    "range": interval,
    "signed_range": signed_interval,
    "sided": sided,
    "count": count,
    "plain": plain,
    "brief": brief,
}
