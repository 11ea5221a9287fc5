"""The figures of a report beside the curves: differences, reliability, robustness, and the embedding map."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from training.report.canvas import ACCENT, INK, MODEL_COLOURS, MUTED, figure, legend, png, titled
from training.report.embedding_map import EmbeddingMap
from training.report.letters import GROUP_COLOURS, LETTERS


def draw_differences(differences: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> bytes:
    """Candidate less rival with its interval, in points, metric by metric.

    Args:
        differences: rival -> metric -> {mean, low, high}.
        names: Metric -> what it is called; its order is that of the rows.
    """
    metrics = [metric for metric in names if any(metric in found for found in differences.values())]
    drawn, (axes,) = figure(7.2, 0.7 + 0.3 * len(metrics))
    offsets = np.linspace(-0.14, 0.14, len(differences)) if len(differences) > 1 else [0.0]
    for (rival, found), offset in zip(differences.items(), offsets, strict=True):
        places = np.array([row for row, metric in enumerate(metrics) if metric in found], dtype=np.float64)
        rows = [found[metric] for metric in metrics if metric in found]
        mean, low, high = (100 * np.array([row[part] for row in rows]) for part in ("mean", "low", "high"))
        axes.hlines(places + offset, low, high, color=_of_rival(rival), linewidth=1.4)
        axes.plot(mean, places + offset, "o", color=_of_rival(rival), markersize=4, label=f"candidate − {rival}")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(metrics)), [names[metric] for metric in metrics])
    axes.set_ylim(len(metrics) - 0.4, -0.6)
    axes.grid(False, axis="y")
    titled(axes, "", "difference in points, with 95 % interval; right of 0 is better", "")
    if len(differences) > 1:
        legend(axes, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return png(drawn)


def draw_reliability(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Accuracy over confidence; a dot's area grows with its number of items.

    Args:
        curves: contender -> bins of {items, confidence, accuracy}.
    """
    drawn, (axes,) = figure(4.2, 3.8)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    for name, bins in curves.items():
        x, y, items = (np.array([part[key] for part in bins]) for key in ("confidence", "accuracy", "items"))
        axes.plot(x, y, linewidth=1.3, color=MODEL_COLOURS.get(name, MUTED), label=name)
        axes.scatter(x, y, s=6 + 60 * items / max(1, items.max()), color=MODEL_COLOURS.get(name, MUTED), alpha=0.55)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_aspect("equal")
    titled(axes, "After temperature scaling", "mean confidence of the bin", "share named right")
    legend(axes, loc="upper left")
    return png(drawn)


def draw_robustness(found: Mapping[str, Mapping[str, Any]]) -> bytes:
    """nDCG@10 by severity, one panel for each kind of perturbation, one line for each contender.

    A line is the score of the texts as they are, less the mean drop of those items that were perturbed: not every
    item is perturbed in every way, and items differ in how hard they are.

    Args:
        found: contender -> {clean, rows: [{kind, severity, drop: {mean, low, high}}]}.
    """
    kinds = sorted({row["kind"] for model in found.values() for row in model["rows"]})
    across = len(kinds) if len(kinds) < 4 else 3
    down = -(-len(kinds) // across)
    drawn, axes = figure(2.9 * across, 2.1 * down + 0.2, down, across)
    for kind, each in zip(kinds, axes, strict=False):
        for name, model in found.items():
            rows = [row for row in model["rows"] if row["kind"] == kind]
            severities = [0, *(row["severity"] for row in rows)]
            scores = [model["clean"], *(model["clean"] - row["drop"]["mean"] for row in rows)]
            low = [model["clean"] - row["drop"]["high"] for row in rows]
            high = [model["clean"] - row["drop"]["low"] for row in rows]
            colour = MODEL_COLOURS.get(name, MUTED)
            if name == "candidate":
                each.fill_between(
                    severities, [model["clean"], *low], [model["clean"], *high], color=colour, alpha=0.15, linewidth=0
                )
            each.plot(severities, scores, "o-", color=colour, linewidth=1.3, markersize=3, label=name)
        each.set_xticks(sorted({row["severity"] for model in found.values() for row in model["rows"]} | {0}))
        titled(each, kind.replace("_", " "), "severity", "nDCG@10")
    used = axes[: len(kinds)]
    ends = [end for each in used for end in each.get_ylim()]
    for each in used:
        each.set_ylim(min(ends), max(ends))
    for unused in axes[len(kinds) :]:
        unused.set_visible(False)
    legend(axes[0], loc="lower left")
    return png(drawn)


def draw_map(found: EmbeddingMap) -> bytes:
    """Two panels with the same axes: the rows in the base, and the same rows in the candidate."""
    drawn, axes = figure(9.6, 4.5, 1, 2)
    both = np.concatenate([found.base, found.candidate])
    low, high = both.min(axis=0), both.max(axis=0)
    room = 0.05 * np.maximum(high - low, 1e-6)
    for each, points, title in zip(axes, (found.base, found.candidate), ("Base", "Candidate"), strict=True):
        titled(each, title, "first component", "second component")
        each.set_xlim(low[0] - room[0], high[0] + room[0])
        each.set_ylim(low[1] - room[1], high[1] + room[1])
        if len(found.links):
            _draw_links(each, points, found)
        else:
            _draw_groups(each, points, found)
    return png(drawn)


def _draw_groups(axes: Axes, points: np.ndarray, found: EmbeddingMap) -> None:
    rest = found.marks < 0
    axes.scatter(points[rest, 0], points[rest, 1], s=5, color=MUTED, alpha=0.28, linewidths=0)
    for number in range(len(found.names)):
        own = found.marks == number
        axes.scatter(points[own, 0], points[own, 1], s=16, color=GROUP_COLOURS[number], alpha=0.85, linewidths=0)
    for number in range(len(found.names)):
        middle = points[found.marks == number].mean(axis=0)
        axes.annotate(
            LETTERS[number], middle, ha="center", va="center", fontsize=8, fontweight="bold", color="white",
            bbox={"boxstyle": "circle,pad=0.25", "facecolor": GROUP_COLOURS[number], "edgecolor": "white"},
        )  # fmt: skip


def _draw_links(axes: Axes, points: np.ndarray, found: EmbeddingMap) -> None:
    for one, other in found.links:
        axes.plot(points[[one, other], 0], points[[one, other], 1], color=MUTED, linewidth=0.8)
    asked, answers = points[found.links[:, 0]], points[found.links[:, 1]]
    axes.scatter(asked[:, 0], asked[:, 1], s=14, color=ACCENT, label="question", zorder=3)
    axes.scatter(answers[:, 0], answers[:, 1], s=14, facecolor="white", edgecolor=INK, label="its answer", zorder=3)
    legend(axes, loc="best")


def _of_rival(rival: str) -> str:
    return ACCENT if rival == "base" else INK
