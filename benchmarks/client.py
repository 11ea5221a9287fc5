"""Embedding a list of texts through a running service with the official client, for the benchmarks."""

import base64
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from openai import OpenAI

Vectors = npt.NDArray[np.float32]


def embed(url: str, model: str, texts: Sequence[str], *, batch: int = 256) -> tuple[Vectors, set[str]]:
    """Vectors (n, d) of `texts` in order, and the set of versions that answered."""
    rows: list[Vectors] = []
    answered: set[str] = set()
    with OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=2) as client:
        for begin in range(0, len(texts), batch):
            answer = client.embeddings.create(
                model=model, input=list(texts[begin : begin + batch]), encoding_format="base64"
            )
            answered.add(answer.model)
            for item in answer.data:
                data = item.embedding
                raw = base64.b64decode(data) if isinstance(data, str) else np.asarray(data, np.float32).tobytes()
                rows.append(np.frombuffer(raw, np.float32))
    return np.stack(rows), answered
