"""POST /v1/embeddings, /v1/similarity and /v1/neighbors: the hot path.

A request resolves its model name once, is computed by that version and no other, and its vectors go to the drift
monitor after the answer has gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from encoder.errors import InputRefused
from service import schemas, serialise
from service.answer import VectorAnswer
from service.auth import MayEmbed, embed_access
from service.compute import Computed, compute
from service.errors import Problem, input_problem, invalid
from service.parsing import embedding_request, neighbors_request, similarity_request
from service.prompts import prompted
from service.schemas import problems
from service.state import Running, service_of

router = APIRouter(prefix="/v1", tags=["vectors"], responses=problems(400, 401, 403, 404, 413, 422, 429, 503, 504))

MAX_K = 100
# Answers of up to this many numbers are written in place (about 1 ms); larger ones in a thread.
INLINE_NUMBERS = 20_000


@router.post("/embeddings", openapi_extra=schemas.EMBEDDINGS, summary="Embed texts")
async def embeddings(request: Request, service: Running, caller: MayEmbed) -> Response:
    """OpenAI's embeddings contract, with true token counts and the exact version in `model`."""
    asked = embedding_request(await request.body(), service.settings.max_inputs)
    target = await service.resolve(asked.model, request, user=asked.user)
    native = target.backbone.record.dimension
    if asked.dimensions is not None and asked.dimensions > native:
        raise invalid("dimensions", f"is {asked.dimensions}; this model has {native}")
    texts = prompted(service.settings, target, asked.prompt, asked.texts)
    computed = await compute(service, request, target, texts, asked.truncate, asked.user)
    vectors = computed.vectors

    def write() -> bytes:
        cut = asked.dimensions is not None and asked.dimensions < native
        return serialise.embeddings(
            serialise.shorten(vectors, asked.dimensions) if cut and asked.dimensions else vectors,
            model=target.name,
            tokens=computed.cost.tokens,
            truncated=computed.cost.truncated,
            base64=asked.base64,
        )

    body = write() if vectors.size <= INLINE_NUMBERS else await service.threads.encode(write)
    return VectorAnswer(service, computed, body)


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
    target = await service.resolve(asked.model, request)
    texts = prompted(service.settings, target, asked.prompt, [*asked.a, *asked.b])
    try:
        computed = await compute(service, request, target, texts, asked.truncate)
    except InputRefused as error:
        in_b = error.index >= len(asked.a)
        error.index -= len(asked.a) if in_b else 0
        raise input_problem(error, "b" if in_b else "a") from None
    a, b = computed.vectors[: len(asked.a)], computed.vectors[len(asked.a) :]

    def write() -> bytes:
        scores = np.clip(a @ b.T if asked.matrix else np.einsum("ij,ij->i", a, b), -1.0, 1.0)
        return _body(computed, {"scores": serialise.rows(scores) if asked.matrix else scores})

    small = not asked.matrix or len(a) * len(b) <= INLINE_NUMBERS
    body = write() if small else await service.threads.encode(write)
    return VectorAnswer(service, computed, body)


@router.post("/neighbors", openapi_extra=schemas.NEIGHBORS, summary="Nearest reference items")
async def neighbors(request: Request, service: Running, caller: MayEmbed) -> Response:
    """The nearest reference items of each text, and how unlike the reference it is (conformal p-value)."""
    settings = service.settings
    asked = neighbors_request(await request.body(), settings.max_inputs, MAX_K, settings.max_neighbors)
    target = await service.resolve(asked.model, request)
    version = target.version
    reference = None if version is None else await service.within(request, lambda: service.catalog.reference(version))
    if reference is None:
        message = "This model has no reference; ask for an adapter that has one."
        raise Problem(422, message, code="no_reference", param="model")
    texts = prompted(service.settings, target, asked.prompt, asked.texts)
    computed = await compute(service, request, target, texts, asked.truncate)

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
        return _body(computed, {"data": serialise.rows(found)})

    body = await service.threads.encode(search)
    return VectorAnswer(service, computed, body)


def _body(computed: Computed, answer: Mapping[str, Any]) -> bytes:
    usage = serialise.usage(computed.cost.tokens, computed.cost.truncated)
    return serialise.dump({"object": "list", **answer, "model": computed.target.name, "usage": usage})
