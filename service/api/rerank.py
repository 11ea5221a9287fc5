"""POST /v1/rerank, /v2/rerank and /rerank: documents by their similarity to a query, in the shape the client speaks.

Cohere's and Jina's bodies name `documents`, TEI's (on /rerank only) names `texts`. The score is the cosine of the two
vectors, made with the backbone's query and document prompts where it has them. `relevance_score` must lie in [0, 1]:
a negative cosine, which is no likeness either, counts 0. Results are sorted by the cosine itself.

Over-long texts are cut unless `truncate` is false, as Cohere and Jina do; `usage.truncated` says how many were. In
TEI's shape an unset `truncate` follows the setting, as on its other routes.
"""

import uuid
from typing import Any

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from encoder.errors import InputRefused
from service import client_schemas, serialise
from service.answer import VectorAnswer
from service.api.tei import model_named
from service.auth import MayEmbed
from service.compute import Computed, compute
from service.errors import EncodeFailed
from service.parsing_clients import RerankRequest, rerank_request
from service.prompts import DOCUMENT, QUERY, prompted
from service.schemas import problems
from service.snapshot import Target
from service.state import Running, Service
from service.tei_errors import problem_of_texts, tei_refusals

_OURS = problems(400, 401, 403, 404, 413, 422, 429, 503, 504)
_TEIS = client_schemas.tei_problems(400, 401, 403, 404, 413, 422, 424, 429, 503, 504)
router = APIRouter(tags=["clients of others"])

# Cohere bills one search for each hundred documents.
DOCUMENTS_A_UNIT = 100


@router.post("/v1/rerank", openapi_extra=client_schemas.RERANK, responses=_OURS, summary="Rerank (Cohere v1, Jina)")
async def rerank_v1(request: Request, service: Running, caller: MayEmbed) -> Response:
    """Documents by similarity to the query; results repeat their documents unless told not to, as Jina's do."""
    return await _documents(service, request, await _read(service, request), repeat=True)


@router.post("/v2/rerank", openapi_extra=client_schemas.RERANK, responses=_OURS, summary="Rerank (Cohere v2)")
async def rerank_v2(request: Request, service: Running, caller: MayEmbed) -> Response:
    """Documents by similarity to the query, by their index."""
    return await _documents(service, request, await _read(service, request), repeat=False)


@router.post("/rerank", openapi_extra=client_schemas.RERANK_EITHER, responses=_TEIS, summary="Rerank (TEI, Jina)")
async def rerank(request: Request, service: Running, caller: MayEmbed) -> Response:
    """TEI's ranks for a body with `texts`; Cohere's and Jina's results for one with `documents`."""
    with tei_refusals("texts", "query"):
        asked = await _read(service, request)
        if not asked.tei:
            return await _documents(service, request, asked, repeat=True)
        truncate = service.settings.truncate if asked.truncate is None else asked.truncate
        scores, _, computed = await _score(service, request, asked, truncate)
    shown = scores if asked.raw else np.maximum(scores, 0)
    ranks = [
        {"index": index, "score": shown[index], **({"text": asked.documents[index]} if asked.return_documents else {})}
        for index in np.argsort(-scores, kind="stable").tolist()
    ]
    body = await service.threads.encode(lambda: serialise.dump(serialise.rows(ranks)))
    return VectorAnswer(service, computed, body)


async def _read(service: Service, request: Request) -> RerankRequest:
    return rerank_request(await request.body(), service.settings.max_inputs)


async def _documents(service: Service, request: Request, asked: RerankRequest, *, repeat: bool) -> Response:
    """Answer in Cohere's and Jina's shape; `repeat`: what an unset `return_documents` means here."""
    try:
        scores, cut, computed = await _score(service, request, asked, asked.truncate is not False)
    except (InputRefused, EncodeFailed) as error:
        raise problem_of_texts(error, "documents", "query") or error from None
    repeat = repeat if asked.return_documents is None else asked.return_documents
    order = np.argsort(-scores, kind="stable")[: asked.top_n].tolist()
    relevance = np.maximum(scores, 0)

    def write() -> bytes:
        results: list[dict[str, Any]] = [{"index": index, "relevance_score": relevance[index]} for index in order]
        if repeat:
            for result in results:
                result["document"] = {"text": asked.documents[result["index"]]}
        tokens = computed.cost.tokens
        return serialise.dump(
            {
                "id": str(uuid.uuid4()),
                "object": "list",
                "model": computed.target.name,
                "results": serialise.rows(results),
                "usage": serialise.usage(tokens, computed.cost.truncated + cut),
                "meta": {
                    "api_version": {"version": "2"},
                    "billed_units": {"search_units": -(-len(asked.documents) // DOCUMENTS_A_UNIT)},
                    "tokens": {"input_tokens": tokens},
                },
            }
        )

    return VectorAnswer(service, computed, await service.threads.encode(write))


async def _score(
    service: Service, request: Request, asked: RerankRequest, truncate: bool
) -> tuple[NDArray[np.float32], int, Computed]:
    """The cosine of each document with the query (n,), and how many documents `max_tokens_per_doc` cut."""
    target = await service.resolve(model_named(service, request, asked.model), request)
    documents = asked.documents
    if asked.max_tokens is not None:
        target.backbone.embedder.admit(documents)
        documents = await service.threads.encode(heads, target, documents, asked.max_tokens)
    cut = sum(short is not whole for short, whole in zip(documents, asked.documents, strict=True))
    texts = [
        *prompted(service.settings, target, QUERY, [asked.query]),
        *prompted(service.settings, target, DOCUMENT, documents),
    ]
    computed = await compute(service, request, target, texts, truncate)
    scores: NDArray[np.float32] = np.clip(computed.vectors[1:] @ computed.vectors[0], -1.0, 1.0)
    return scores, cut, computed


def heads(target: Target, texts: list[str], tokens: int) -> list[str]:
    """The first tokens of each text; a text that has no more is the same object as before."""
    tokenizer = target.backbone.encoder.tokenizer
    if tokens >= tokenizer.max_tokens:
        return texts  # the model cuts them sooner
    return [tokenizer.head(text, tokens) for text in texts]
