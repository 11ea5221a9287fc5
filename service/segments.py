"""Names of segments within bounds: the first so many have a place of their own, all others share one."""

from monitoring.bets import MAX_SEGMENTS
from monitoring.evidence import OTHER


class Segments:
    """The segments one process has seen of a version: series and evidence must not grow with what callers send."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def place(self, name: str | None) -> str | None:
        """The name itself, or "other" once MAX_SEGMENTS others are known; None stays None."""
        if name is None or name in self._known:
            return name
        if len(self._known) < MAX_SEGMENTS:
            self._known.add(name)
            return name
        return OTHER
