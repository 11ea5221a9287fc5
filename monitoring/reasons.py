"""A reason of a verdict: a stable code, a sentence, its numbers, and whether it speaks for the candidate."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reason:
    """One finding of the gate; `ok` is False where it stands against a promotion."""

    code: str
    text: str
    numbers: dict[str, float]
    ok: bool

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "text": self.text, "numbers": self.numbers, "ok": self.ok}
