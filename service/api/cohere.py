"""POST /v2/embed, as Cohere's client sends it."""

import base64
import uuid
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from encoder.errors import InputRefused
from service import client_schemas, serialise
from service.answer import VectorAnswer
from service.api.rerank import heads
from service.api.vectors import INLINE_NUMBERS
from service.auth import MayEmbed
from service.compute import compute
from service.errors import EncodeFailed, invalid
from service.parsing_clients import cohere_embed_request
from service.prompts import prompted
from service.schemas import problems
from service.state import Running
from service.tei_errors import problem_of_texts

router = APIRouter(tags=["clients of others"], responses=problems(400, 401, 403, 404, 413, 422, 429, 503, 504))


@router.post("/v2/embed", openapi_extra=client_schemas.COHERE_EMBED, summary="Embed texts (Cohere v2)")
async def embed(request: Request, service: Running, caller: MayEmbed) -> Response:
    """Vectors by encoding. Over-long texts are cut, as Cohere does, unless `truncate` is "NONE"."""
    asked = cohere_embed_request(await request.body(), service.settings.max_inputs)
    target = await service.resolve(asked.model, request)
    native = target.backbone.record.dimension
    if asked.dimensions is not None and asked.dimensions > native:
        raise invalid("output_dimension", f"is {asked.dimensions}; this model has {native}")
    texts = asked.texts
    if asked.max_tokens is not None:
        target.backbone.embedder.admit(texts)
        texts = await service.threads.encode(heads, target, texts, asked.max_tokens)
    texts = prompted(service.settings, target, asked.prompt, texts)
    try:
        computed = await compute(service, request, target, texts, asked.truncate is not False)
    except (InputRefused, EncodeFailed) as error:
        raise problem_of_texts(error, "texts") or error from None
    found = computed.vectors

    def write() -> bytes:
        shown = serialise.shorten(found, asked.dimensions) if asked.dimensions and asked.dimensions < native else found
        written: dict[str, Any] = {}
        if "float" in asked.types:
            written["float"] = serialise.rows(shown)
        if "base64" in asked.types:
            written["base64"] = [base64.b64encode(row).decode() for row in shown.astype("<f4", copy=False)]
        tokens = computed.cost.tokens
        return serialise.dump(
            {
                "id": str(uuid.uuid4()),
                "response_type": "embeddings_by_type",
                "model": target.name,
                "embeddings": written,
                "texts": asked.texts,
                "meta": {
                    "api_version": {"version": "2"},
                    "billed_units": {"input_tokens": tokens},
                    "tokens": {"input_tokens": tokens},
                },
            }
        )

    body = write() if found.size <= INLINE_NUMBERS else await service.threads.encode(write)
    return VectorAnswer(service, computed, body)
