"""The page of a drift report: one HTML file that needs nothing else, no script and no network.

Jinja2 escapes every value; labels and texts are hostile input.
"""

from collections.abc import Mapping
from typing import Any, Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from training.drift_report import pictures
from training.report.formats import FILTERS

MARKER: Final = "driftline.drift-report/1"
"""Stands in the page as its generator, so that a file can be told to be one."""


def render(found: Mapping[str, Any]) -> bytes:
    """The page of a document (`monitoring.drift_document.document`) as UTF-8."""
    environment = Environment(
        # The style is that of a version's report.
        loader=ChoiceLoader([PackageLoader("training.drift_report"), PackageLoader("training.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    page = environment.get_template("drift.html.jinja").render(
        **found,
        marker=MARKER,
        evidence_picture=pictures.evidence(found),
        novelty_picture=pictures.novelty(found),
        p_picture=pictures.p_values(found),
        strip=pictures.strip(found),
        plane=pictures.plane(found),
    )
    return page.encode("utf-8", "replace")
