"""Whether rows that were fitted on are among those judged on; one that is makes every verdict worthless."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from monitoring.errors import VectorsRefused
from monitoring.reasons import Reason


@dataclass(frozen=True, slots=True)
class Leakage:
    """What fitted and judged rows have in common.

    Attributes:
        shared: By kind of key: how many judged rows have a key that a fitted row has too.
        rows: Places of those judged rows, ascending, over all kinds.
        judged: How many rows are judged on.
    """

    shared: Mapping[str, int]
    rows: tuple[int, ...]
    judged: int

    def reason(self) -> Reason:
        """What the gate says of it."""
        numbers: dict[str, float] = {"shared": len(self.rows), "judged": self.judged}
        if self.rows:
            kinds = ", ".join(f"{count} by {kind}" for kind, count in self.shared.items() if count)
            text = f"{len(self.rows)} of {self.judged} judged rows are among those fitted on ({kinds})"
            return Reason("leakage", text, numbers, ok=False)
        text = f"none of {self.judged} judged rows is among those fitted on, by {', '.join(self.shared)}"
        return Reason("no_leakage", text, numbers, ok=True)


def find_leakage(keys: Mapping[str, tuple[Sequence[Hashable], Sequence[Hashable]]]) -> Leakage:
    """Compare the keys of fitted and judged rows, for each kind of key (fingerprint, near-duplicate group, author).

    `keys` has, by kind, one key for each fitted row and one for each judged row. Nothing to compare is an error, not
    an all-clear.

    Raises:
        VectorsRefused: No kind of key, a side without rows, or kinds that differ in the number of rows.
    """
    sizes = {(len(fitted), len(judged)) for fitted, judged in keys.values()}
    if len(sizes) != 1 or 0 in next(iter(sizes)):
        raise VectorsRefused(
            "leakage needs one key of every kind for each fitted and each judged row, and rows of both"
        )
    shared: dict[str, int] = {}
    rows: set[int] = set()
    for kind, (fitted, judged) in keys.items():
        known = set(fitted)
        found = [place for place, key in enumerate(judged) if key in known]
        shared[kind] = len(found)
        rows.update(found)
    return Leakage(shared, tuple(sorted(rows)), sizes.pop()[1])


def gate_set_digest(fingerprints: Sequence[int | str]) -> str:
    """SHA-256 of a gate set by its rows' fingerprints, whatever their order: what verdicts on it are counted under."""
    told = "\0".join(sorted(str(fingerprint) for fingerprint in fingerprints))
    return hashlib.sha256(told.encode()).hexdigest()
