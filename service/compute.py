"""What every vector route does with its texts: one version computes them, within the caller's deadline."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from encoder.errors import InputRefused
from service.auth import CALLER
from service.deadline import given, left
from service.embedder import Embedded
from service.errors import ClientGone, Overloaded, Problem
from service.origin import Origin, origin_of
from service.snapshot import Target
from service.state import Service
from service.tracing import RequestTrace, trace_of


@dataclass(frozen=True, slots=True)
class Computed:
    """Vectors (n, d) float32 of one request, by the one version that answers it.

    Attributes:
        cost: What the texts cost: tokens, times, how many came from the cache.
        texts: As they were computed, prompts included.
        origin: Where they come from, as the request says.
        began: When the work began, on `time.perf_counter`.
        seconds: From there until the vectors were there.
        trace: Of the request, if there is one.
    """

    target: Target
    vectors: NDArray[np.float32]
    cost: Embedded
    texts: Sequence[str]
    origin: Origin
    began: float
    seconds: float
    trace: RequestTrace | None = None

    @property
    def characters(self) -> int:
        """Of all texts together."""
        return sum(map(len, self.texts))


async def compute(
    service: Service,
    request: Request,
    target: Target,
    texts: Sequence[str],
    truncate: bool | None,
    user: str | None = None,
) -> Computed:
    """Vectors of a target; `truncate` None means as the service is set, `user` is the body's field of that name.

    Raises:
        InputRefused, Overloaded, EncodeFailed, ClientGone, Problem: See `Embedder.embed` and `Rates.admit`; 422 for
            a deadline header that is no number of milliseconds, or a segment that is none.
    """
    began = time.perf_counter()
    trace = trace_of(request)
    allowed = given(request)
    origin = origin_of(request, user)
    service.rates.admit(request.scope.get(CALLER), len(texts))
    try:
        cost = await target.backbone.embedder.embed(
            texts,
            truncate=service.settings.truncate if truncate is None else truncate,
            lora=target.lora,
            gone=request.is_disconnected,
            deadline=None if allowed is None else left(request, allowed),
            trace=trace,
        )
        vectors = await target.apply(cost.vectors, service.threads.encode)
    except (InputRefused, Overloaded, ClientGone, Problem):
        raise  # the caller's text, the load or the deadline
    except Exception:
        service.rollouts.failed(target)
        raise
    service.recorder.texts(target.family, len(texts), cost.tokens, cost.truncated)
    computed = Computed(target, vectors, cost, texts, origin, began, time.perf_counter() - began, trace)
    if trace is not None:
        trace.answered(computed)
    return computed
