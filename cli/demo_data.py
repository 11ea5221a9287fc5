"""The demo's texts: tickets cut into rows to upload and rows kept back, and messages about something else entirely."""

import json
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "support-desk"
UPLOADED_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Tickets:
    """Rows to fit on, rows no fit ever sees, and off-topic texts; drawn with a fixed seed."""

    uploaded: list[dict[str, str]]
    kept_back: list[dict[str, str]]
    off_topic: list[str]

    @property
    def labels(self) -> int:
        """How many intents there are."""
        return len({row["label"] for row in self.uploaded})


def load_tickets(seed: int = 7) -> Tickets:
    """Read the sample set and cut each intent 70 to 30.

    Raises:
        FileNotFoundError: The example files are not beside the code.
    """
    chance = random.Random(seed)
    by_label: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in _rows(FOLDER / "tickets.jsonl"):
        by_label[row["label"]].append(row)
    uploaded: list[dict[str, str]] = []
    kept_back: list[dict[str, str]] = []
    for label in sorted(by_label):
        rows = by_label[label]
        chance.shuffle(rows)
        cut = round(len(rows) * UPLOADED_SHARE)
        uploaded += rows[:cut]
        kept_back += rows[cut:]
    chance.shuffle(uploaded)
    chance.shuffle(kept_back)
    return Tickets(uploaded, kept_back, [row["text"] for row in _rows(FOLDER / "off_topic.jsonl")])


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
