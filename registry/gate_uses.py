"""How often rows were judged on: every verdict of the gate leaves an event, and the next one on these rows counts it.

A gate set that has judged many candidates has been chosen by: the best of twenty lucky ones looks good on it. What
counts is every verdict, of whatever adapter and outcome, since each told somebody something about these rows. Rows
added to a dataset do not make a gate set a new one; it is the same as an earlier one where at least half of its rows
were judged there. That share is estimated from the smallest of the rows' fingerprints (bottom-k sketches: Cohen,
Kaplan, "Summarizing data using bottom-k sketches", PODC 2007), so that no row and no text is kept.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry import events
from registry.tables import EventRecord

KIND: Final = "gate.judged"
KEPT: Final = 128
"""Fingerprints that are kept of a gate set; smaller sets are kept whole. The share's standard error is about 0.05 for
sets of like size, and larger the more they differ: a small part of a far larger set may not be recognised."""
SAME: Final = 0.5
"""The share of rows judged before from which a gate set counts as one that was used."""


@dataclass(frozen=True, slots=True)
class GateSet:
    """Rows a verdict rests on.

    Attributes:
        digest: SHA-256 over all of them.
        rows: How many different ones.
        marks: Their smallest fingerprints, ascending, as 16 hexadecimal digits each; at most KEPT.
    """

    digest: str
    rows: int
    marks: tuple[str, ...]

    @classmethod
    def of(cls, digest: str, fingerprints: Iterable[int]) -> "GateSet":
        """The set of rows with these fingerprints, whole numbers below 2^64; ValueError where there are none."""
        distinct = sorted({f"{fingerprint:016x}" for fingerprint in fingerprints})
        if not distinct:
            raise ValueError("a gate set has at least one row")
        return cls(digest, len(distinct), tuple(distinct[:KEPT]))

    def share_of(self, other: "GateSet") -> float:
        """The share of this set's rows that the other has too; estimated where a set is larger than its sketch."""
        if self.digest == other.digest:
            return 1.0
        united = sorted({*self.marks, *other.marks})[:KEPT]
        both = set(self.marks) & set(other.marks)
        alike = sum(mark in both for mark in united) / len(united)
        return min(1.0, alike * (self.rows + other.rows) / (1 + alike) / self.rows)


def claim(session: Session, gate_set: GateSet, *, key: str, subject: str, by: str) -> int:
    """Enter a verdict on these rows, before it is made, and say which use of them it is: 1 for the first.

    `key` names the question that is asked, such as the job, or the versions compared: asking it again on the same rows
    says nothing new and is the use it was. `subject` names the dataset's revision.
    """
    earlier = _entered(session)
    for entered in earlier:
        if entered["key"] == key and entered["set"] == gate_set.digest:
            return int(entered["use"])
    use = 1 + sum(_counts(gate_set, entered) for entered in earlier)
    detail = {
        "key": key,
        "set": gate_set.digest,
        "rows": gate_set.rows,
        "marks": list(gate_set.marks),
        "use": use,
    }
    events.record(session, KIND, subject, by, detail)
    return use


def uses(session: Session, gate_set: GateSet) -> int:
    """How many verdicts were made on these rows so far."""
    return sum(_counts(gate_set, entered) for entered in _entered(session))


def _entered(session: Session) -> Sequence[dict[str, Any]]:
    return session.scalars(select(EventRecord.detail).where(EventRecord.kind == KIND).order_by(EventRecord.id)).all()


def _counts(gate_set: GateSet, entered: dict[str, Any]) -> bool:
    return gate_set.share_of(_set_of(entered)) >= SAME


def _set_of(entered: dict[str, Any]) -> GateSet:
    return GateSet(entered["set"], entered["rows"], tuple(entered["marks"]))
