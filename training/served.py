"""Vectors of stored versions, computed as the service does: the backbone, a head on it, or a LoRA inside it."""

from collections.abc import Callable, Sequence

import numpy as np

from encoder.adapters import Head
from encoder.encoder import TOKEN_BUDGET, Encoder
from encoder.lora import Lora
from encoder.lora_manifest import LoraManifest
from encoder.manifest import Fetch
from training.problem import Vectors

Encode = Callable[[Sequence[str]], Vectors]


def encode_under(
    encoder: Encoder, lora: Lora, texts: Sequence[str], told: Callable[[int], None] = lambda done: None
) -> Vectors:
    """Vectors (m, d) float32 of texts under a LoRA, cut where they are too long; `told` hears how many are done."""
    tokens = encoder.tokenizer.encode(list(texts), truncate=True)
    found = np.empty((len(texts), lora.manifest.dimension), dtype=np.float32)
    done = 0
    for batch in encoder.plan(tokens.counts, TOKEN_BUDGET):
        found[batch] = encoder.forward_adapted([tokens.ids[row] for row in batch], [lora] * len(batch))
        done += len(batch)
        told(done)
    return found


def encode_with(encoder: Encoder, fetch: Fetch, kind: str | None, digest: str) -> Encode:
    """How texts are encoded by a version: by its kind and digest, or by the bare backbone where the kind is None.

    Raises:
        ArtifactRefused: The artifact is damaged or does not reproduce its probes.
    """

    def base(texts: Sequence[str]) -> Vectors:
        return encoder.encode(list(texts), truncate=True).vectors

    if kind is None:
        return base
    if kind == LoraManifest.KIND:
        lora = Lora.open(digest, fetch)
        encoder.prove(lora)
        return lambda texts: encode_under(encoder, lora, texts)
    head = Head.open(digest, fetch)
    return lambda texts: head.apply(base(texts))
