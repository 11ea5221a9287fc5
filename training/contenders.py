"""The models that a retrain compares: the bare backbone, the candidate, and the champion where there is one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from encoder.adapters import Head
from encoder.encoder import Encoder
from training.problem import Vectors
from training.steps import JobContext

Encode = Callable[[Sequence[str]], Vectors]


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
    """The models by name: base, candidate and, where a version is live, champion."""
    base, generic = context.vectors()
    runtime = context.runtime
    encoder = Encoder.open(
        context.snapshot["backbone"],
        context.registry.fetch,
        provider=runtime.provider,
        precision=runtime.precision,
        threads=runtime.threads,
    )

    def plain(texts: Sequence[str]) -> Vectors:
        return encoder.encode(list(texts), truncate=True).vectors

    def through(apply: Callable[[Vectors], Vectors]) -> Model:
        return Model(apply(base), apply(generic), lambda texts: apply(plain(texts)))

    found = {"base": Model(base, generic, plain), "candidate": through(context.weights().apply)}
    champion = context.snapshot["champion"]
    if champion is not None:
        found["champion"] = through(Head.open(champion["digest"], context.registry.fetch).apply)
    return found
