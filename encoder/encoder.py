"""Texts to base vectors with one loaded backbone; usable without any service."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from encoder.adapted import AdaptedSession, Rows, require_rows
from encoder.batch import Batch, TokenIds, plan_batches
from encoder.errors import ArtifactRefused, InputRefused
from encoder.graph import check_graph
from encoder.lora import Lora
from encoder.manifest import BackboneManifest, Fetch, load_files, load_manifest_bytes
from encoder.probes import Probes
from encoder.retrieval import Retrieval
from encoder.runtime import (
    BAR,
    BATCH_TOLERANCE,
    Int8,
    Measurement,
    Precision,
    Vectors,
    Yardstick,
    choose,
    least_cosine,
    min_cosine,
    release_memory,
)
from encoder.tokens import Tokenizer

TOKEN_BUDGET = 4096
INT8_FILE = "model.int8.onnx"
_PROBE_BUDGET = 512  # tokens: the first such batch, on which speed is measured, holds some 40 short texts
_SELF_CHECK = 8
# Smallest cosine of an adapter's vectors to its probes, which were computed in fp32. An adapter may move a vector far,
# and rounding errors with it, so that less is asked than of a backbone.
_ADAPTED_COSINE = {Precision.FP32: 0.99999, Precision.TF32: 0.999, Precision.BF16: 0.999, Precision.INT8: 0.93}


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors of some texts, in their order.

    Attributes:
        vectors: (n, d) float32, unit rows.
        counts: Tokens embedded for each text, special tokens included.
        truncated: Whether the text was cut.
    """

    vectors: npt.NDArray[np.float32]
    counts: list[int]
    truncated: list[bool]


class Encoder:
    """A loaded backbone; every method is safe from many threads at once.

    Attributes:
        digest: Digest of its manifest: the identity of the backbone.
        manifest: What it consists of.
        tokenizer: Texts to token ids.
        session: Token ids to vectors, adapted where a row asks for it; names its provider and precision.
        measurements: What every candidate provider showed when it was chosen.
    """

    def __init__(
        self,
        digest: str,
        manifest: BackboneManifest,
        tokenizer: Tokenizer,
        session: AdaptedSession,
        measurements: Sequence[Measurement],
        checks: tuple[TokenIds, npt.NDArray[np.float32]],
    ) -> None:
        self.digest = digest
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.session = session
        self.measurements = tuple(measurements)
        self._check_tokens, self._check_vectors = checks

    @classmethod
    def open(
        cls,
        digest: str,
        fetch: Fetch,
        *,
        provider: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        streams: int | None = None,
    ) -> "Encoder":
        """Load a backbone, file by file against its manifest, on the fastest provider that reproduces its probes.

        Args:
            digest: Digest of the manifest.
            fetch: Gives the bytes with a digest.
            provider, precision: "auto", or names to narrow the choice (see `encoder.runtime`).
            threads: Threads of all runs together; None takes every core available.
            streams: Runs under way at once; None measures what is best.

        Raises:
            ArtifactRefused: Something is not what the manifest names, or not allowed in it.
            NoProvider: Nothing on this machine reproduces the probes.
        """
        manifest = BackboneManifest.from_bytes(load_manifest_bytes(digest, fetch))
        files = load_files({name: entry for name, entry in manifest.files.items() if name != INT8_FILE}, fetch)

        def int8_model() -> bytes:
            model = load_files({INT8_FILE: manifest.files[INT8_FILE]}, fetch)[INT8_FILE]
            check_graph(model, inputs=manifest.inputs, outputs=manifest.outputs)
            return model

        check_graph(files["model.onnx"], inputs=manifest.inputs, outputs=manifest.outputs)
        tokenizer = Tokenizer.from_bytes(files["tokenizer.json"], manifest.max_tokens)
        probes = Probes.from_bytes(files["probes.json"])
        if probes.vectors.shape[1] != manifest.dimension:
            raise ArtifactRefused(f"probes.json holds vectors of another width than {manifest.dimension}")
        try:
            ids = tokenizer.encode(probes.texts).ids
        except InputRefused as error:
            raise ArtifactRefused(f"probes.json: {error}") from error
        batches = plan_batches([len(row) for row in ids], _PROBE_BUDGET)
        order = [index for batch in batches for index in batch]
        tokens = [[ids[index] for index in batch] for batch in batches]
        yardstick = _yardstick(manifest, files, tokenizer, tokens, probes.vectors[order])
        int8 = Int8(int8_model, _int8_fault(manifest)) if INT8_FILE in manifest.files else None
        session, measurements = choose(files["model.onnx"], yardstick, provider, precision, threads, streams, int8)
        name = INT8_FILE if session.precision is Precision.INT8 else "model.onnx"
        graph = {name: manifest.files[name]}
        shortest = order[:_SELF_CHECK]
        checks = ([ids[index] for index in shortest], probes.vectors[shortest])
        del files
        release_memory()
        adapted = AdaptedSession(session, lambda: load_files(graph, fetch)[name], checks)
        return cls(digest, manifest, tokenizer, adapted, measurements, checks)

    def encode(
        self,
        texts: Sequence[str],
        *,
        truncate: bool = False,
        progress: Callable[[int, int], None] | None = None,
        token_budget: int = TOKEN_BUDGET,
    ) -> Encoded:
        """Base vectors of texts, computed in batches of similar length.

        Args:
            texts: Any number of texts, none of them empty.
            truncate: Cut a text that is too long instead of refusing it.
            progress: Called with (texts done, texts in all) after each batch.
            token_budget: Most tokens in a batch.

        Raises:
            EmptyText, TextTooLong: The first text that cannot be encoded; nothing is computed then.
        """
        tokens = self.tokenizer.encode(texts, truncate)
        vectors = np.empty((len(texts), self.manifest.dimension), dtype=np.float32)
        done = 0
        for batch in self.plan(tokens.counts, token_budget):
            vectors[batch] = self.run([tokens.ids[index] for index in batch])
            done += len(batch)
            if progress is not None:
                progress(done, len(texts))
        return Encoded(vectors, tokens.counts, tokens.truncated)

    def plan(self, lengths: Sequence[int], token_budget: int) -> list[list[int]]:
        """Texts of so many tokens cut into batches, as positions; see `plan_batches`."""
        return plan_batches(lengths, token_budget, packed=self.session.packed)

    def run(self, tokens: TokenIds) -> npt.NDArray[np.float32]:
        """Base vectors (n, d) float32 of the texts of one batch, given as token ids, in their order."""
        return self.forward_adapted(tokens, [None] * len(tokens))

    def arrange(self, tokens: TokenIds) -> Batch:
        """The texts of one batch as `compute` takes them: what can be done before the runtime is free."""
        return self.session.arrange(tokens, self.manifest.max_tokens)

    def compute(self, batch: Batch, rows: Rows) -> npt.NDArray[np.float32]:
        """`forward_adapted` of an arranged batch."""
        require_rows(batch.tokens, rows, self.digest)
        return self.session.compute(batch, rows)

    def self_check(self) -> float:
        """Smallest cosine of the eight shortest probes to their recorded vectors: one real, small run of the model."""
        return min_cosine(self.session.run(self._check_tokens), self._check_vectors)

    @property
    def batch_tolerance(self) -> float:
        """How much a component of a text's vector may differ with the batch it is computed in: what is promised of the
        precision, or what was measured at import where that is more."""
        precision = self.session.precision
        facts = self.manifest.precisions.get(precision)
        return max(BATCH_TOLERANCE[precision], facts.batch_difference if facts is not None else 0.0)

    @property
    def least_cosine(self) -> float:
        """What `self_check` must give at least, in the precision that serves."""
        return least_cosine(self.session.precision)

    def prepare_adapters(self, *loras: Lora) -> None:
        """Make room for LoRA adapters before their first row comes; rows of others are computed meanwhile.

        Raises:
            ArtifactRefused: An adapter does not fit this backbone.
            NoProvider: The provider does not take the graph with branches.
        """
        require_rows(loras, loras, self.digest)
        self.session.prepare(loras)

    def forward_adapted(self, tokens: TokenIds, rows: Rows) -> npt.NDArray[np.float32]:
        """Vectors (n, d) float32 of the texts of one batch; text i under rows[i], None for the base.

        Raises:
            ArtifactRefused: An adapter does not fit this backbone.
            EncoderError: There is not one adapter a text, or the runtime gave values that are not finite.
        """
        if not tokens:
            return np.empty((0, self.manifest.dimension), dtype=np.float32)
        return self.compute(self.arrange(tokens), rows)

    def prove(self, lora: Lora) -> float:
        """Run an adapter's probes and return their smallest cosine to the recorded vectors.

        Raises:
            ArtifactRefused: It stands on another backbone, does not fit it, or does not reproduce its probes.
        """
        self.prepare_adapters(lora)
        try:
            tokens = self.tokenizer.encode(lora.probes.texts)
        except InputRefused as error:
            raise ArtifactRefused(f"probes.json: {error}") from error
        found = np.empty_like(lora.probes.vectors)
        for batch in self.plan(tokens.counts, _PROBE_BUDGET):
            found[batch] = self.forward_adapted([tokens.ids[index] for index in batch], [lora] * len(batch))
        cosine, wanted = min_cosine(found, lora.probes.vectors), _ADAPTED_COSINE[self.session.precision]
        if not cosine >= wanted:
            raise ArtifactRefused(
                f"the adapter does not reproduce its probes: smallest cosine {cosine:.6f}, {wanted} is required"
            )
        return cosine


def _yardstick(
    manifest: BackboneManifest,
    files: Mapping[str, bytes],
    tokenizer: Tokenizer,
    batches: Sequence[TokenIds],
    expected: Vectors,
) -> Yardstick:
    """What a provider must keep: the probe vectors, and the score of float32 where the import recorded one."""
    exact = manifest.precisions.get("fp32")
    if exact is None or "retrieval.json" not in files:
        return Yardstick(batches, expected)
    probe = Retrieval.from_bytes(files["retrieval.json"])
    return Yardstick(
        batches, expected, lambda session: probe.measure(tokenizer, session.run, session.streams), exact.retrieval
    )


def _int8_fault(manifest: BackboneManifest) -> str | None:
    """Why int8 cannot be what `auto` picks: static scales lose the same on every machine."""
    facts, exact = manifest.precisions.get("int8"), manifest.precisions.get("fp32")
    if facts is None or exact is None:
        return None
    if facts.min_cosine >= BAR.cosine and exact.retrieval - facts.retrieval <= BAR.loss:
        return None
    return (
        f"at import its smallest cosine was {facts.min_cosine:.4f} ({BAR.cosine} is required) and its nDCG@10 "
        f"{facts.retrieval:.2f} (float32 has {exact.retrieval:.2f}); it serves where the precision int8 is asked for"
    )
