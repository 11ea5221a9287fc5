"""What every vector route does with its texts: one version computes them, within the caller's deadline."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from service.embedder import Embedded
from service.errors import invalid
from service.snapshot import Target
from service.state import Service

DEADLINE_HEADER = "x-request-deadline-ms"


@dataclass(frozen=True, slots=True)
class Computed:
    """Vectors (n, d) float32 of one request, by the one version that answers it.

    Attributes:
        cost: What the texts cost: tokens, times, how many came from the cache.
        characters: Of all texts together.
        began: When the work began, on `time.perf_counter`.
    """

    target: Target
    vectors: NDArray[np.float32]
    cost: Embedded
    characters: int
    began: float


async def compute(
    service: Service, request: Request, target: Target, texts: Sequence[str], truncate: bool | None
) -> Computed:
    """Vectors of a target; `truncate` None means as the service is set.

    Raises:
        InputRefused, Overloaded, EncodeFailed, ClientGone, Problem: See `Embedder.embed`; 422 for a deadline header
            that is no number of milliseconds.
    """
    began = time.perf_counter()
    cost = await target.backbone.embedder.embed(
        texts,
        truncate=service.settings.truncate if truncate is None else truncate,
        lora=target.lora,
        gone=request.is_disconnected,
        deadline=_deadline(request),
    )
    vectors = await target.apply(cost.vectors, service.threads.encode)
    service.recorder.texts(target.family, len(texts), cost.tokens, cost.truncated)
    return Computed(target, vectors, cost, sum(map(len, texts)), began)


def _deadline(request: Request) -> float | None:
    """Seconds the caller gives for an answer, if it says so."""
    given = request.headers.get(DEADLINE_HEADER)
    if given is None:
        return None
    try:
        milliseconds = float(given)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        raise invalid(DEADLINE_HEADER, "must be a number of milliseconds above 0")
    return milliseconds / 1000
