"""The models that a retrain compares, each as it would be served: the bare backbone, the candidate, and the champion.

The candidate is the exported artifact in the work folder, the champion the live version's in the store. Vectors under a
LoRA are kept in the work folder once they are computed, since every text has to be encoded for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from encoder.adapters import Head
from encoder.encoder import Encoder
from encoder.lora import Lora
from encoder.lora_manifest import LoraManifest
from encoder.manifest import Fetch, sha256
from training.generic import generic_texts
from training.lora_task import DRAFT
from training.problem import Vectors
from training.served import encode_under
from training.steps import JobContext

Encode = Callable[[Sequence[str]], Vectors]
Progress = Callable[[int, int], None]
"""Called with (texts done, texts in all)."""
FILES = {"head": ("head.onnx", "probes.safetensors"), "lora": ("lora.safetensors", "probes.json")}
"""Kind of an adapter -> files of its artifact, beside the manifest."""


@dataclass(frozen=True, eq=False)
class Model:
    """One model as it would be served.

    Attributes:
        texts: (n, d) float32 vectors of the dataset's distinct texts.
        generic: (g, d) float32 vectors of the generic sentences.
        encode: Vectors (m, d) float32 of any other texts, which are cut where they are too long.
    """

    texts: Vectors
    generic: Vectors
    encode: Encode


def contenders(context: JobContext) -> dict[str, Model]:
    """The models by name: base, candidate and, where a version is live, champion.

    Raises:
        ArtifactRefused: A version's artifact is damaged or does not reproduce its probes.
    """
    serving = _Serving(context)
    base, generic = context.vectors()
    found = {"base": Model(base, generic, serving.base), "candidate": serving.candidate()}
    champion = context.snapshot["champion"]
    if champion is not None:
        found["champion"] = serving.model("champion", champion["kind"], champion["digest"], context.registry.fetch)
    return found


def candidate(context: JobContext, progress: Progress | None = None) -> Model:
    """The exported candidate alone.

    Raises:
        ArtifactRefused: Its artifact is damaged or does not reproduce its probes.
    """
    return _Serving(context, progress).candidate()


class _Serving:
    """The backbone as it is served, opened when it is first needed, and the adapters on it."""

    def __init__(self, context: JobContext, progress: Progress | None = None) -> None:
        self._context = context
        self._progress = progress or (lambda done, whole: None)
        self._last: tuple[list[str], Vectors] | None = None

    @cached_property
    def encoder(self) -> Encoder:
        """The loaded backbone."""
        runtime, digest = self._context.runtime, self._context.snapshot["backbone"]
        return Encoder.open(
            digest,
            self._context.registry.fetch,
            provider=runtime.provider,
            precision=runtime.precision,
            threads=runtime.threads,
        )

    def base(self, texts: Sequence[str]) -> Vectors:
        """Base vectors (m, d) float32; those of the last texts are remembered, since each head asks for the same."""
        asked = list(texts)
        if self._last is None or self._last[0] != asked:
            self._last = (asked, self.encoder.encode(asked, truncate=True).vectors)
        return self._last[1]

    def candidate(self) -> Model:
        """The exported candidate."""
        folder, kind = self._context.folder, self._context.kind
        blobs = {sha256(data): data for data in map(folder.read, (*FILES[kind], DRAFT))}
        return self.model("candidate", kind, sha256(folder.read(DRAFT)), blobs.__getitem__)

    def model(self, name: str, kind: str, digest: str, fetch: Fetch) -> Model:
        """The version with this manifest; `name` tells its vectors from those of others."""
        base, generic = self._context.vectors()
        if kind != LoraManifest.KIND:
            head = Head.open(digest, fetch)
            return Model(head.apply(base), head.apply(generic), lambda texts: head.apply(self.base(texts)))
        lora = Lora.open(digest, fetch)
        folder, file = self._context.folder, f"vectors.{name}.safetensors"
        if not folder.has(file):
            self.encoder.prove(lora)
            texts = self._context.corpus().texts
            whole = self._under(lora, [*texts, *generic_texts()])
            folder.write_arrays(file, {"texts": whole[: len(texts)], "generic": whole[len(texts) :]})
        kept = folder.read_arrays(file)
        return Model(kept["texts"], kept["generic"], lambda asked: self._under(lora, asked))

    def _under(self, lora: Lora, texts: Sequence[str]) -> Vectors:
        """Vectors (m, d) float32 of texts under a LoRA, through the serving graph."""

        def told(done: int) -> None:
            self._context.check_cancel()
            self._progress(done, len(texts))

        return encode_under(self.encoder, lora, texts, told)
