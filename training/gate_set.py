"""The rows a verdict rests on as the registry counts them: fingerprints of their content, no text."""

from collections.abc import Sequence
from hashlib import blake2b

from monitoring.leakage import gate_set_digest
from registry.gate_uses import GateSet
from registry.near import normal_form
from registry.row import Row
from training.problem import Indices


def gate_set_of(rows: Sequence[Row], judged: Indices) -> GateSet:
    """The judged rows of a dataset. A row is known by its text in normal form and its label or answer."""
    marks = [_fingerprint(rows[row]) for row in judged]
    return GateSet.of(gate_set_digest(marks), marks)


def _fingerprint(row: Row) -> int:
    answer = row.label if row.positive is None else normal_form(row.positive)
    told = f"{normal_form(row.subject)}\0{answer}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(told, digest_size=8, person=b"gate row").digest())
