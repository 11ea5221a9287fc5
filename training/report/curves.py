"""The curves of a fit as one figure: selection score and loss, and the shape of the selection rows, over the steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes

from training.report.canvas import ACCENT, INK, MUTED, figure, legend, png, titled

Curves = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One small figure: what it shows, the unit of its y axis, and the curves by name with their words.

    band: the two curves between which the ground is tinted.
    """

    title: str
    unit: str
    curves: tuple[tuple[str, str], ...]
    band: tuple[str, str] | None = None


PANELS: Final = (
    Panel("Selection score", "score, 0 to 1", (("score", ""),)),
    Panel("Selection loss", "nats", (("loss", ""),)),
    Panel("Margins", "cosine", (("margin_median", "median"),), ("margin_p10", "margin_p90")),
    Panel("Alignment", "squared distance", (("alignment", ""),)),
    Panel("Uniformity", "log mean kernel", (("uniformity", ""),)),
    Panel("Effective rank", "directions", (("effective_rank", ""),)),
    Panel("Mean cosines", "cosine", (("foreign_cosine", "other kinds"), ("mean_pair_cosine", "any two rows"))),
    Panel("Prototypes of labels", "1 − cosine", (("prototype_own", "item to its own"),
                                                  ("prototype_nearest", "nearest two"))),
    Panel("Neighbourhoods and noise", "share or cosine", (("neighbor_agreement", "of the same kind"),
                                                          ("neighbor_overlap", "as in the base"),
                                                          ("stability", "under noise"))),
)  # fmt: skip
_STYLES: Final = ({"color": ACCENT}, {"color": INK, "linestyle": "--"}, {"color": MUTED, "linestyle": "-."})


def draw_curves(fit: Mapping[str, Any]) -> bytes:
    """A PNG of every panel that has a known value.

    Args:
        fit: The report of a fit: base_score, curve, geometry and best_step (see `training.fit.fit_head`).
    """
    steps = [0, *(int(step) for step, _ in fit["curve"])]
    curves: dict[str, Sequence[float | None]] = dict(fit.get("geometry") or {})
    curves["score"] = [fit["base_score"], *(score for _, score in fit["curve"])]
    shown = [panel for panel in PANELS if any(_known(curves, name) for name, _ in panel.curves)]
    rows = -(-len(shown) // 3)
    drawn, axes = figure(9.6, 2.35 * rows, rows, 3)
    for panel, each in zip(shown, axes, strict=False):
        _draw(each, panel, steps, curves, int(fit["best_step"]))
    for unused in axes[len(shown) :]:
        unused.set_visible(False)
    return png(drawn)


def _draw(axes: Axes, panel: Panel, steps: Sequence[int], curves: Curves, best: int) -> None:
    titled(axes, panel.title, "step", panel.unit)
    if panel.band is not None and all(_known(curves, name) for name in panel.band):
        low, high = (_numbers(curves[name]) for name in panel.band)
        axes.fill_between(steps, low, high, color=ACCENT, alpha=0.15, linewidth=0, label="10th to 90th percentile")
        axes.axhline(0, color=INK, linewidth=0.7)
    for (name, words), style in zip(panel.curves, _STYLES, strict=False):
        if _known(curves, name):
            axes.plot(steps, _numbers(curves[name]), linewidth=1.5, label=words or None, **style)  # type: ignore[arg-type]
    axes.axvline(best, color=MUTED, linewidth=0.8, linestyle=":")
    if axes.get_legend_handles_labels()[1]:
        legend(axes)


def _known(curves: Curves, name: str) -> bool:
    return any(value is not None for value in curves.get(name, ()))


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]
