"""The retrieval probe: a small search task whose score shows what a number format costs where vectors are used."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from encoder.batch import TokenIds, plan_batches
from encoder.errors import ArtifactRefused
from encoder.manifest import canonical, json_object
from encoder.tokens import Tokenizer

_FILE = "retrieval.json"
_DEPTH = 10
_BATCH_TOKENS = 512

Run = Callable[[TokenIds], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Texts, and which of the others answer which.

    Attributes:
        texts: The texts; every one is searched among.
        relevant: For each text the positions of those that a search for it should find; none where it is no query.
    """

    texts: tuple[str, ...]
    relevant: tuple[tuple[int, ...], ...]

    def score(self, vectors: npt.NDArray[np.float32]) -> float:
        """Mean nDCG@10 in points of 100, by cosine, relevance 0 or 1 (Järvelin & Kekäläinen 2002, with log2(1 + rank)).

        Args:
            vectors: (texts, d) float32 unit rows, in the order of `texts`.
        """
        queries = [index for index, answers in enumerate(self.relevant) if answers]
        similar = vectors[queries] @ vectors.T
        similar[np.arange(len(queries)), queries] = -np.inf  # no text is an answer to itself
        ranked = np.argsort(-similar, axis=1, kind="stable")[:, :_DEPTH]
        gains = 1.0 / np.log2(np.arange(2, _DEPTH + 2))
        total = 0.0
        for query, row in zip(queries, ranked, strict=True):
            answers = self.relevant[query]
            total += float(gains[: len(row)][np.isin(row, answers)].sum() / gains[: len(answers)].sum())
        return 100.0 * total / len(queries)

    def measure(self, tokenizer: Tokenizer, run: Run, at_once: int = 1) -> float:
        """The score of a model.

        Args:
            tokenizer: The model's own.
            run: Token ids of the texts of one batch to vectors (b, d) float32.
            at_once: Runs under way at a time.
        """
        tokens = tokenizer.encode(self.texts, truncate=True)
        batches = plan_batches(tokens.counts, _BATCH_TOKENS)
        with ThreadPoolExecutor(at_once) as pool:
            parts = list(pool.map(lambda batch: run([tokens.ids[i] for i in batch]), batches))
        vectors = np.empty((len(self.texts), parts[0].shape[1]), dtype=np.float32)
        for batch, part in zip(batches, parts, strict=True):
            vectors[batch] = part
        return self.score(vectors)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical({"texts": self.texts, "relevant": self.relevant})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Retrieval":
        """Read a retrieval probe.

        Raises:
            ArtifactRefused: Not one.
        """
        value = json_object(data, _FILE)
        try:
            texts = tuple(value["texts"])
            relevant = tuple(tuple(answers) for answers in value["relevant"])
        except (KeyError, TypeError) as error:
            raise ArtifactRefused(f"{_FILE} does not hold texts and what is relevant") from error
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ArtifactRefused(f"{_FILE} holds something that is no text")
        if len(relevant) != len(texts) or not any(relevant):
            raise ArtifactRefused(f"{_FILE} must say for every text what is relevant, and have a query")
        for query, answers in enumerate(relevant):
            others = all(type(index) is int and 0 <= index < len(texts) and index != query for index in answers)
            if not (others and len(set(answers)) == len(answers) <= _DEPTH):
                raise ArtifactRefused(f"{_FILE}: text {query} has an answer that is no other text, or one twice")
        return cls(texts, relevant)
