"""POST /v1/embeddings, /v1/similarity and /v1/neighbors: the hot path.

A request resolves its model name once, is computed by that version and no other, and its vectors go to the drift
monitor after the answer has gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from encoder.errors import InputRefused
from service import schemas, serialise
from service.auth import MayEmbed, embed_access
from service.embedder import Embedded
from service.errors import Problem, input_problem, invalid
from service.parsing import embedding_request, neighbors_request, similarity_request
from service.schemas import problems
from service.snapshot import Target
from service.state import Running, Service, service_of

router = APIRouter(prefix="/v1", tags=["vectors"], responses=problems(400, 401, 403, 404, 413, 422, 429, 503, 504))

MAX_K = 100
# Answers of up to this many numbers are written in place (about 1 ms); larger ones in a thread.
INLINE_NUMBERS = 20_000


@dataclass(frozen=True, slots=True)
class _Computed:
    """Vectors (n, d) of a target, with what the base vectors cost."""

    vectors: NDArray[np.float32]
    base: Embedded


class _Answer(Response):
    """A JSON answer that hands its vectors to the drift monitor once it has been sent."""

    def __init__(self, service: Service, target: Target, body: bytes, observed: NDArray[np.float32]) -> None:
        super().__init__(body, headers={"x-driftline-version": target.name}, media_type=serialise.JSON)
        self._service = service
        self._target = target
        self._observed = observed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)
        if self._target.version is not None:
            self._service.watch.offer(self._target.version, self._observed)


@router.post("/embeddings", openapi_extra=schemas.EMBEDDINGS, summary="Embed texts")
async def embeddings(request: Request, service: Running, caller: MayEmbed) -> Response:
    """OpenAI's embeddings contract, with true token counts and the exact version in `model`."""
    asked = embedding_request(await request.body(), service.settings.max_inputs)
    target = await service.resolve(asked.model)
    native = target.backbone.record.dimension
    if asked.dimensions is not None and asked.dimensions > native:
        raise invalid("dimensions", f"is {asked.dimensions}; this model has {native}")
    computed = await _compute(service, request, target, asked.texts, asked.truncate)
    vectors = computed.vectors

    def write() -> bytes:
        cut = asked.dimensions is not None and asked.dimensions < native
        return serialise.embeddings(
            serialise.shorten(vectors, asked.dimensions) if cut and asked.dimensions else vectors,
            model=target.name,
            tokens=computed.base.tokens,
            truncated=computed.base.truncated,
            base64=asked.base64,
        )

    body = write() if vectors.size <= INLINE_NUMBERS else await service.threads.encode(write)
    return _Answer(service, target, body, computed.vectors)


class HotPath:
    """Answers POST /v1/embeddings straight from ASGI; everything else goes on to the framework.

    Same function, same access rule, same errors: only route matching and dependency solving are left out, which cost
    about as much as all the rest of a request for a cached text.
    """

    PATH = "/v1/embeddings"

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._route = _Route(self.PATH)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self.PATH or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        scope["route"] = self._route
        request = Request(scope, receive)
        caller = embed_access.caller(request)
        response = await embeddings(request, service_of(request), caller)
        await response(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _Route:
    """What the metrics need to know of a route."""

    path: str


@router.post("/similarity", openapi_extra=schemas.SIMILARITY, summary="Cosine of texts")
async def similarity(request: Request, service: Running, caller: MayEmbed) -> Response:
    """Cosine scores of pairs, or of every text of `a` with every text of `b`."""
    asked = similarity_request(await request.body(), service.settings.max_inputs)
    target = await service.resolve(asked.model)
    try:
        computed = await _compute(service, request, target, [*asked.a, *asked.b], asked.truncate)
    except InputRefused as error:
        in_b = error.index >= len(asked.a)
        error.index -= len(asked.a) if in_b else 0
        raise input_problem(error, "b" if in_b else "a") from None
    a, b = computed.vectors[: len(asked.a)], computed.vectors[len(asked.a) :]

    def write() -> bytes:
        scores = np.clip(a @ b.T if asked.matrix else np.einsum("ij,ij->i", a, b), -1.0, 1.0)
        return _body(target, computed.base, {"scores": serialise.rows(scores) if asked.matrix else scores})

    small = not asked.matrix or len(a) * len(b) <= INLINE_NUMBERS
    body = write() if small else await service.threads.encode(write)
    return _Answer(service, target, body, computed.vectors)


@router.post("/neighbors", openapi_extra=schemas.NEIGHBORS, summary="Nearest reference items")
async def neighbors(request: Request, service: Running, caller: MayEmbed) -> Response:
    """The nearest reference items of each text, and how unlike the reference it is (conformal p-value)."""
    settings = service.settings
    asked = neighbors_request(await request.body(), settings.max_inputs, MAX_K, settings.max_neighbors)
    target = await service.resolve(asked.model)
    reference = await service.catalog.reference(target.version) if target.version is not None else None
    if reference is None:
        message = "This model has no reference; ask for an adapter that has one."
        raise Problem(422, message, code="no_reference", param="model")
    computed = await _compute(service, request, target, asked.texts, asked.truncate)

    def search() -> bytes:
        scores, items = reference.neighbors(computed.vectors, asked.k)
        novelty = reference.novelty(computed.vectors)
        labels = reference.fit_labels
        found = (
            {
                "index": index,
                "novelty": float(novelty[index]),
                "neighbors": [
                    {"id": reference.fit_ids[i], "label": labels[i] if labels is not None else None, "score": float(s)}
                    for s, i in zip(scores[index], items[index], strict=True)
                ],
            }
            for index in range(len(asked.texts))
        )
        return _body(target, computed.base, {"data": serialise.rows(found)})

    body = await service.threads.encode(search)
    return _Answer(service, target, body, computed.vectors)


async def _compute(
    service: Service, request: Request, target: Target, texts: list[str], truncate: bool | None
) -> _Computed:
    base = await target.backbone.embedder.embed(
        texts, truncate=service.settings.truncate if truncate is None else truncate, gone=request.is_disconnected
    )
    vectors = await target.apply(base.vectors, service.threads.encode)
    service.recorder.texts(target.family, len(texts), base.tokens, base.truncated)
    return _Computed(vectors, base)


def _body(target: Target, base: Embedded, answer: Mapping[str, Any]) -> bytes:
    usage = serialise.usage(base.tokens, base.truncated)
    return serialise.dump({"object": "list", **answer, "model": target.name, "usage": usage})
