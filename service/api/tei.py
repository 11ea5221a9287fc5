"""The routes of Text Embeddings Inference, so that its clients can be pointed here without change.

Its clients name no model: they get the one of the setting `tei_model`, or the default backbone, unless the request
says otherwise with a `model` in the body, `?model=` in the address or a header `x-driftline-model`. Refusals are
TEI's too: see service/tei_errors.py.
"""

from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from registry.names import parse_model
from service import client_schemas, serialise
from service.answer import VectorAnswer
from service.api import health, vectors
from service.api.vectors import INLINE_NUMBERS
from service.auth import MayEmbed
from service.compute import compute
from service.errors import Problem, invalid
from service.parsing import CUTS_THE_END
from service.parsing_clients import decode_request, embed_request, sentences_request, tokenize_request
from service.prompts import prompted
from service.schemas import EMBEDDINGS, problems
from service.snapshot import Snapshot
from service.state import Running, Service
from service.tei_errors import tei_refusals
from service.version import VERSION

router = APIRouter(
    tags=["clients of others"], responses=client_schemas.tei_problems(400, 401, 403, 404, 413, 422, 424, 429, 503, 504)
)

MODEL_HEADER = "x-driftline-model"

_DTYPES = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16"}


def model_named(service: Service, request: Request, named: str | None) -> str:
    """The model a request is for, of whichever way it names one.

    Raises:
        Problem: 503 when it names none and nothing is loaded.
    """
    name = named or request.query_params.get("model") or request.headers.get(MODEL_HEADER) or default_model(service)
    if name is None:
        raise Problem(503, "No model is loaded yet.", code="not_ready")
    return name


def default_model(service: Service) -> str | None:
    """The model of requests that name none: the setting, else the default backbone, None while nothing is loaded."""
    return service.settings.tei_model or next(iter(service.catalog.snapshot.backbones), None)


@router.post("/embed", openapi_extra=client_schemas.EMBED, summary="Embed texts (TEI)")
async def embed(request: Request, service: Running, caller: MayEmbed) -> Response:
    """A bare list of vectors, one a text, also for a single text."""
    with tei_refusals("inputs"):
        asked = embed_request(await request.body(), service.settings.max_inputs)
        target = await service.resolve(model_named(service, request, asked.model), request)
        truncate = _truncate(service, asked.truncate, asked.left)
        native = target.backbone.record.dimension
        if asked.dimensions is not None and asked.dimensions > native:
            raise invalid("dimensions", f"is {asked.dimensions}; this model has {native}")
        texts = prompted(service.settings, target, asked.prompt, asked.texts)
        computed = await compute(service, request, target, texts, truncate)
    found = computed.vectors

    def write() -> bytes:
        shown = serialise.shorten(found, asked.dimensions) if asked.dimensions and asked.dimensions < native else found
        return serialise.dump(serialise.rows(shown))

    body = write() if found.size <= INLINE_NUMBERS else await service.threads.encode(write)
    return VectorAnswer(service, computed, body)


# TEI serves its main task at the root too, and Hugging Face's clients are given only the server's address.
router.post("/", openapi_extra=client_schemas.EMBED, summary="Embed texts (TEI)")(embed)


@router.post("/similarity", openapi_extra=client_schemas.SIMILARITY, summary="Cosine of sentences with one (TEI)")
async def similarity(request: Request, service: Running, caller: MayEmbed) -> Response:
    """Cosine of each sentence with the source sentence."""
    with tei_refusals("sentences", "source_sentence"):
        asked = sentences_request(await request.body(), service.settings.max_inputs)
        target = await service.resolve(model_named(service, request, asked.model), request)
        truncate = _truncate(service, asked.truncate, asked.left)
        texts = prompted(service.settings, target, asked.prompt, [asked.source, *asked.sentences])
        computed = await compute(service, request, target, texts, truncate)
    scores = np.clip(computed.vectors[1:] @ computed.vectors[0], -1.0, 1.0)
    return VectorAnswer(service, computed, serialise.dump(scores))


@router.post("/tokenize", openapi_extra=client_schemas.TOKENIZE, summary="Tokens of texts (TEI)")
async def tokenize(request: Request, service: Running, caller: MayEmbed) -> Response:
    """The tokens of each text as the backbone reads it, whole however long."""
    limit = service.settings.max_request_tokens
    with tei_refusals("inputs"):
        asked = tokenize_request(await request.body(), service.settings.max_inputs)
        target = await service.resolve(model_named(service, request, asked.model), request)
        texts = prompted(service.settings, target, asked.prompt, asked.texts)
        tokenizer = target.backbone.encoder.tokenizer
        target.backbone.embedder.admit(texts)

        def write() -> bytes:
            rows, total = [], 0
            for index, text in enumerate(texts):
                pieces = tokenizer.pieces(index, text, asked.special)
                total += len(pieces)
                if total > limit:
                    message = f"The request has more than {limit} tokens in all."
                    raise Problem(413, message, code="too_many_tokens", param="inputs")
                rows.append(serialise.dump(pieces))
            return b"[%b]" % b",".join(rows)

        body = await service.threads.encode(write)
    return Response(body, media_type=serialise.JSON)


@router.post("/decode", openapi_extra=client_schemas.DECODE, summary="Texts of token ids (TEI)")
async def decode(request: Request, service: Running, caller: MayEmbed) -> Response:
    """The text that each list of token ids stands for."""
    settings = service.settings
    with tei_refusals("ids"):
        asked = decode_request(await request.body(), settings.max_inputs, settings.max_request_tokens)
        target = await service.resolve(model_named(service, request, asked.model), request)
        tokenizer = target.backbone.encoder.tokenizer
        try:
            texts = await service.threads.encode(
                lambda: [tokenizer.decode(row, asked.skip_special) for row in asked.ids]
            )
        except ValueError as error:
            raise invalid("ids", f"cannot be decoded: {error}") from None
    return serialise.answer(texts)


@router.get(
    "/health",
    summary="Is it serving (TEI)",
    response_class=Response,
    responses={200: {"description": "It is"}, **client_schemas.tei_problems(503)},
)
async def health_(request: Request, service: Running) -> Response:
    """200 and nothing else while both /healthz and /readyz say so."""
    await health.healthz(service)
    await health.readyz(request, service)
    return Response()


@router.post(
    "/embeddings",
    openapi_extra=EMBEDDINGS,
    summary="Embed texts",
    responses=problems(400, 401, 403, 404, 413, 422, 429, 503, 504),
)
async def embeddings(request: Request, service: Running, caller: MayEmbed) -> Response:
    """The same as /v1/embeddings, for clients whose base address has no /v1."""
    return await vectors.embeddings(request, service, caller)


def info(service: Service) -> dict[str, Any]:
    """What TEI's GET /info says, of the model its routes serve."""
    settings, name = service.settings, default_model(service)
    about = _model_info(service.catalog.snapshot, name) if name is not None else {}
    max_tokens = about.get("max_input_length")
    return {
        "model_id": name,
        "served_model_name": name,
        "model_sha": None,
        "model_dtype": None,
        "model_type": None,
        "max_input_length": None,
        **about,
        # TEI admits requests, this service admits tokens: so many of the longest texts may wait at once.
        "max_concurrent_requests": settings.queue_tokens // max_tokens if max_tokens else settings.queue_tokens,
        "max_batch_tokens": settings.max_batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_inputs,
        "auto_truncate": settings.truncate,
        "tokenization_workers": service.threads.encode.workers,
        "version": VERSION,
        "sha": None,
        "docker_label": None,
    }


def _model_info(snapshot: Snapshot, name: str) -> dict[str, Any]:
    """Of a backbone, or of an adapter's version, which may be asleep; nothing of what is not served."""
    backbone, digest = snapshot.backbones.get(name), None
    if backbone is None:
        try:
            adapter, number = parse_model(name)
        except ValueError:
            return {}
        view = snapshot.adapters.get(adapter)
        version = None if view is None else view.serving if number is None else view.version(number)
        if version is None:
            return {}
        backbone, digest = snapshot.backbone_of(version.backbone), version.digest
    if backbone is None:
        return {}
    encoder = backbone.encoder
    precision = str(encoder.session.precision)
    return {
        "model_sha": digest or backbone.record.digest,
        "model_dtype": _DTYPES.get(precision, precision),
        "model_type": {"embedding": {"pooling": encoder.manifest.pooling}},
        "max_input_length": encoder.manifest.max_tokens,
    }


def _truncate(service: Service, asked: bool | None, left: bool) -> bool:
    truncate = service.settings.truncate if asked is None else asked
    if left and truncate:
        raise invalid("truncation_direction", CUTS_THE_END)
    return truncate
