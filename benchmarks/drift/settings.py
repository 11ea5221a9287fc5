"""What every part of the card shares: where its files lie, the corpus, and the references it builds."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.drift.corpus import Corpus
from benchmarks.drift.opponents import Field
from benchmarks.drift.streams import Partition, scenarios
from monitoring.features import DIRECTIONS
from monitoring.reference import Reference


@dataclass(frozen=True)
class Card:
    """A folder for what is computed, and the texts' vectors."""

    folder: Path
    corpus: Corpus

    def reference(self, partition: Partition, *, bare: bool = False) -> Reference:
        """A reference of these rows, as a retrain would build it.

        Args:
            bare: Without random features, which run lengths do not depend on, and without replay items, by which a
                monitor may find that it is not calibrated and then never alarms: nothing is to be gained by that here.
        """
        vectors = self.corpus.vectors
        first = int(self.corpus.pools["banking"][0])
        return Reference.build(
            fit=vectors[partition.fit],
            fit_ids=[str(row) for row in partition.fit],
            fit_labels=[str(self.corpus.labels[row - first]) for row in partition.fit],
            calibration=vectors[partition.calibration],
            replay=vectors[partition.replay[:0]] if bare else vectors[partition.replay],
            directions=0 if bare else DIRECTIONS,
        )

    def field(self) -> Field:
        """The streams of the delay table, drawn once."""
        partition = Partition.disjoint(self.corpus, seed=1)
        field = Field(
            self.corpus,
            partition,
            self.reference(partition),
            self.folder / "field",
            scenarios(self.corpus, partition.traffic),
        )
        if not (field.folder / "streams.npz").exists():
            field.write()
        return field
