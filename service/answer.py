"""The answer of a vector route: it says what it cost in its headers; once sent, it goes to monitor and rollouts."""

import time

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service import serialise
from service.auth import CALLER
from service.compute import Computed
from service.state import Service


class VectorAnswer(Response):
    """A JSON answer with the version that gave it and the time of each stage.

    `Server-Timing` (W3C) has milliseconds with their fractions; the `x-…-time` headers are text-embeddings-inference's,
    in whole milliseconds.
    """

    def __init__(self, service: Service, computed: Computed, body: bytes) -> None:
        # Not through Starlette's constructor: the headers are plain ASCII made here, and this is the hot path.
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", serialise.JSON.encode()),
            (b"x-driftline-version", computed.target.name.encode("latin-1")),
            *_costs(computed),
        ]
        self._service = service
        self._computed = computed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)
        target = self._computed.target
        if target.version is not None:
            computed = self._computed
            self._service.watch.offer(target.version, computed.vectors, computed.cost.keys, computed.origin)
            self._service.rollouts.offer(self._computed)
            self._service.retention.offer(computed, scope.get(CALLER))


def _costs(computed: Computed) -> list[tuple[bytes, bytes]]:
    cost = computed.cost
    total = 1000 * (time.perf_counter() - computed.began)
    tokenize, queue, inference = (
        1000 * seconds for seconds in (cost.tokenize_seconds, cost.queue_seconds, cost.inference_seconds)
    )
    timing = b"tokenize;dur=%.3f, queue;dur=%.3f, inference;dur=%.3f, total;dur=%.3f"
    session = computed.target.backbone.encoder.session
    return [
        (b"server-timing", timing % (tokenize, queue, inference, total)),
        (b"x-compute-type", f"{session.provider}+{session.precision}".encode()),
        (b"x-compute-characters", b"%d" % computed.characters),
        (b"x-compute-tokens", b"%d" % cost.tokens),
        (b"x-total-time", b"%d" % total),
        (b"x-tokenization-time", b"%d" % tokenize),
        (b"x-queue-time", b"%d" % queue),
        (b"x-inference-time", b"%d" % inference),
    ]
