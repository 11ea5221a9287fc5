"""What a candidate moves of the champion's neighbourhoods: judged items as frozen probes among the fitted rows."""

from collections.abc import Mapping
from typing import cast

from monitoring.versions_drift import MIN_PROBES, MIN_ROWS, compare_versions
from training.data import GateItems
from training.evaluation_document import VersionsFound
from training.problem import Vectors


def versions_of(items: GateItems, vectors: Mapping[str, Vectors]) -> VersionsFound | None:
    """Candidate against champion, by their vectors (n, d) of the dataset's distinct texts.

    None without a champion, and with fewer items than can be compared.
    """
    if not {"candidate", "champion"} <= vectors.keys():
        return None
    if len(items.queries) < MIN_PROBES or len(items.index) < MIN_ROWS:
        return None
    old, new = vectors["champion"], vectors["candidate"]
    found = compare_versions(old[items.index], new[items.index], old[items.queries], new[items.queries], items.clusters)
    return cast(VersionsFound, found.to_json())
