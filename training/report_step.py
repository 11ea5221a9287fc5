"""The step of a retrain that tells of it: report.html, card.json and curves.png, once the gate has spoken.

A version may go without a report: no job is lost because its page could not be made.
"""

from typing import Any, Final

import structlog

from registry.errors import Unavailable
from training.errors import JobCancelled
from training.report.card import card_bytes, model_card
from training.report.embedding_map import EmbeddingMap, map_labels, map_pairs
from training.report.material import Material, gather
from training.report.page import render
from training.report.pictures import draw_all
from training.steps import JobContext

log = structlog.get_logger()

REPORT: Final = "report.html"
CARD: Final = "card.json"
CURVES: Final = "curves.png"
FILES: Final = (REPORT, CARD, CURVES)


def report(context: JobContext) -> None:
    """Write the page, the model card and the curves into the work folder; repeating it writes the same bytes.

    What goes wrong is logged by its type alone, since its message could repeat a text of the dataset.
    """
    context.tell("report", 0.0, "writing the report")
    try:
        made = build(gather(context))
    except (JobCancelled, Unavailable):
        raise
    except Exception as error:  # noqa: BLE001 - the verdict stands without its report
        log.error("report.not_made", job=context.job.id, error=type(error).__name__)
        context.tell("report", 1.0, "the report could not be made; the worker's log names the error's type")
        return
    for name, data in made.items():
        context.folder.write(name, data)
    context.tell("report", 1.0, f"{sum(map(len, made.values())) / 1e3:.0f} kB")


def report_files(context: JobContext) -> dict[str, bytes]:
    """What `report` wrote, by file name; empty where it could not."""
    return {name: context.folder.read(name) for name in FILES if context.folder.has(name)}


def build(found: Material) -> dict[str, bytes]:
    """The files by name; the curves are missing where they could not be drawn."""
    placed = _placed(found)
    pictures = draw_all(found, placed)
    made = {REPORT: render(found, pictures, placed), CARD: card_bytes(model_card(found))}
    return made | ({CURVES: pictures["curves"]} if "curves" in pictures else {})


def _placed(found: Material) -> EmbeddingMap | None:
    if found.items.relevant:
        return map_pairs(found.items, found.base, found.candidate)
    return map_labels(found.items, found.base, found.candidate, _confused(found.evaluation["errors"]))


def _confused(errors: dict[str, Any]) -> list[str]:
    """Labels of the most frequent confusions of candidate and base, in turn."""
    tables = [errors[name]["confusions"] for name in ("candidate", "base") if name in errors]
    rows = sorted((row for table in tables for row in table), key=lambda row: -row["items"])
    return [str(label) for row in rows for label in (row["label"], row["taken_for"])]
