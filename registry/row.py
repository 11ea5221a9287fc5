"""One row of a dataset, and the three kinds of rows."""

from dataclasses import dataclass
from enum import StrEnum

MAX_ROWS = 1_000_000
"""Rows a dataset may have."""
MAX_TEXT = 100_000
"""Characters a text may have."""
MAX_LABEL = 200
"""Characters a label or a group may have."""


class RowKind(StrEnum):
    """What the rows of a dataset consist of."""

    LABELLED = "labelled"
    """`text` and `label`."""
    PAIRS = "pairs"
    """`anchor` and `positive`, perhaps `negative`."""
    UNLABELLED = "unlabelled"
    """`text` alone."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row; which fields are set follows from the dataset's kind, `group` may be set in each.

    `confidence` goes with a label: how likely the label is right, in (0, 1); None where it is taken as certain.
    """

    text: str | None = None
    label: str | None = None
    group: str | None = None
    anchor: str | None = None
    positive: str | None = None
    negative: str | None = None
    confidence: float | None = None

    @property
    def weak(self) -> bool:
        """Whether the row's label is doubted: such a row is learnt from and never chooses or judges."""
        return self.confidence is not None

    @property
    def subject(self) -> str:
        """The text the row is about: `text`, or the anchor of a pair."""
        return self.text if self.text is not None else self.anchor or ""
