"""OpenAPI documents of the routes that follow other servers: Text Embeddings Inference (TEI), Cohere and Jina."""

from typing import Any, Literal

from pydantic import BaseModel

from service.origin import PARAMETERS
from service.schemas import MOST_EXACT, ONE_TEXT, PROMPT, TEXT, TRUNCATE, texts


class TeiError(BaseModel):
    """TEI's error body, with the members of RFC 9457 beside it."""

    error: str
    error_type: Literal["Validation", "Empty", "Tokenizer", "Backend", "Overloaded", "Unhealthy"]
    type: str
    title: str
    status: int
    detail: str
    code: str | None
    param: str | None


def tei_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a TEI route: its refusals."""
    return {status: {"description": _MEANING[status], "model": TeiError} for status in statuses}


_MEANING = {
    400: "Malformed or empty",
    401: "No valid key",
    403: "The key lacks the scope",
    404: "Unknown model",
    413: "Body of too many bytes",
    415: "A compressed body",
    422: "Invalid, too long or too many texts",
    424: "The runtime failed",
    429: "Too much is waiting; see Retry-After",
    503: "Not ready; see Retry-After",
    504: "Deadline passed",
}

_NUMBERS = {"type": "array", "items": {"type": "number"}}
_VECTORS = {"type": "array", "items": _NUMBERS}
_STRING = {"type": "string"}
_ONE_OR_MANY = texts()
_ID = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
_COUNT = {"type": ["integer", "null"], "minimum": 1, "maximum": MOST_EXACT}
_FLAG = {"type": ["boolean", "null"]}
_MODEL = {
    "type": ["string", "null"],
    "minLength": 1,
    "description": "A backbone, an adapter or adapter@version; by default the setting tei_model, else the default "
    "backbone. Also as ?model= or in the header x-driftline-model.",
}
_DIRECTION = {
    "enum": ["right", "Right", "left", "Left", None],
    "default": "right",
    "description": "Which end of an over-long text goes; only the right one can, so the left needs truncate off.",
}
_META = {
    "type": "object",
    "properties": {
        "api_version": {"type": "object"},
        "billed_units": {"type": "object"},
        "tokens": {"type": "object"},
    },
}
_WHERE = [
    {"name": "model", "in": "query", "required": False, "schema": _STRING, "description": "As the body's model."},
    {"name": "x-driftline-model", "in": "header", "required": False, "schema": _STRING, "description": "The same."},
]


def _operation(
    properties: dict[str, Any],
    required: list[str],
    asked: Any,
    answer: dict[str, Any],
    given: Any,
    *,
    embeds: bool = True,
    either: tuple[str, ...] = (),
) -> dict[str, Any]:
    """One operation, with an example of what is asked and given.

    Args:
        embeds: Its texts are watched for drift.
        either: Fields of which a body has exactly one.
    """
    body: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    if either:
        body["oneOf"] = [{"required": [name]} for name in either]
    return {
        "parameters": [*_WHERE, *PARAMETERS] if embeds else _WHERE,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body, "example": asked}}},
        "responses": {
            "200": {"description": "Computed", "content": {"application/json": {"schema": answer, "example": given}}}
        },
    }


EMBED = _operation(
    {
        "inputs": _ONE_OR_MANY,
        "normalize": {"enum": [True, None], "default": True},
        "truncate": TRUNCATE,
        "truncation_direction": _DIRECTION,
        **PROMPT,
        "dimensions": {**_COUNT, "description": "Cut to these and scale to unit length."},
        "model": _MODEL,
    },
    ["inputs"],
    {"inputs": ["My card was declined."], "truncate": True},
    _VECTORS,
    [[0.036, -0.017, 0.081]],
)

SIMILARITY = _operation(
    {
        "inputs": {
            "type": "object",
            "properties": {"source_sentence": ONE_TEXT, "sentences": _ONE_OR_MANY},
            "required": ["source_sentence", "sentences"],
        },
        "parameters": {
            "type": ["object", "null"],
            "properties": {"truncate": TRUNCATE, "truncation_direction": _DIRECTION, **PROMPT},
        },
        "model": _MODEL,
    },
    ["inputs"],
    {"inputs": {"source_sentence": "My card was declined.", "sentences": ["Why was my payment refused?", "Hello"]}},
    {**_NUMBERS, "description": "Cosine of each sentence with the source sentence."},
    [0.71, 0.08],
)

TOKENIZE = _operation(
    {
        "inputs": _ONE_OR_MANY,
        "add_special_tokens": {**_FLAG, "default": True},
        **PROMPT,
        "model": _MODEL,
    },
    ["inputs"],
    {"inputs": "declined"},
    {
        "type": "array",
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "integer"},
                    "text": _STRING,
                    "special": {"type": "boolean"},
                    "start": {"type": ["integer", "null"]},
                    "stop": {"type": ["integer", "null"]},
                },
            },
        },
    },
    [[{"id": 6430, "text": "declined", "special": False, "start": 0, "stop": 8}]],
    embeds=False,
)

DECODE = _operation(
    {
        "ids": {
            "oneOf": [
                {"type": "array", "items": _ID, "minItems": 1},
                {"type": "array", "items": {"type": "array", "items": _ID}, "minItems": 1},
            ]
        },
        "skip_special_tokens": {**_FLAG, "default": True},
        "model": _MODEL,
    },
    ["ids"],
    {"ids": [101, 6430, 102]},
    {"type": "array", "items": _STRING},
    ["declined"],
    embeds=False,
)

_RERANK = {
    "model": _MODEL,
    "query": ONE_TEXT,
    "documents": _ONE_OR_MANY,
    "top_n": _COUNT,
    "return_documents": {
        **_FLAG,
        "description": "Whether results repeat their text; unset: true, but false on /v2/rerank, as Cohere has it.",
    },
    "max_tokens_per_doc": {**_COUNT, "description": "Tokens of each document that count."},
    "truncate": {**TRUNCATE, "default": True, "description": "Cut over-long texts, as Cohere and Jina do."},
}
_RESULT = {
    "type": "object",
    "properties": {
        "index": {"type": "integer"},
        "relevance_score": {"type": "number", "minimum": 0, "maximum": 1, "description": "Cosine, 0 where negative."},
        "document": {"type": "object", "properties": {"text": _STRING}},
    },
}
_RANKED = {
    "type": "object",
    "properties": {
        "id": _STRING,
        "object": {"const": "list"},
        "model": _STRING,
        "results": {"type": "array", "items": _RESULT, "description": "The most relevant first."},
        "usage": {"type": "object"},
        "meta": _META,
    },
}
_ASKED = {"model": "support", "query": "card declined", "documents": ["Why was my card refused?", "Hi"], "top_n": 1}
_GIVEN = {
    "id": "0b4e",
    "object": "list",
    "model": "support@3",
    "results": [{"index": 0, "relevance_score": 0.74}],
    "usage": {"prompt_tokens": 17, "total_tokens": 17, "truncated": 0},
    "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}, "tokens": {"input_tokens": 17}},
}

RERANK = _operation(_RERANK, ["query", "documents"], _ASKED, _RANKED, _GIVEN)

_RANKS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"index": {"type": "integer"}, "score": {"type": "number"}, "text": _STRING},
    },
}
RERANK_EITHER = _operation(
    {
        **_RERANK,
        "texts": {**_ONE_OR_MANY, "description": "TEI's name of documents; decides the answer."},
        "raw_scores": {**_FLAG, "default": False, "description": "TEI: the cosine itself, -1 to 1."},
        "return_text": {**_FLAG, "default": False, "description": "TEI: results repeat their text."},
    },
    ["query"],
    {"query": "card declined", "texts": ["Why was my card refused?", "Hi"]},
    {"oneOf": [_RANKS, _RANKED]},
    [{"index": 0, "score": 0.74}, {"index": 1, "score": 0.1}],
    either=("texts", "documents"),
)

_PART = {"type": "object", "properties": {"text": TEXT}, "required": ["text"]}
_PARTS = {
    "type": "object",
    "properties": {"content": {"type": "array", "items": _PART, "minItems": 1}},
    "required": ["content"],
}

COHERE_EMBED = _operation(
    {
        "model": {**_MODEL, "type": "string"},
        "texts": _ONE_OR_MANY,
        "inputs": {"type": "array", "items": _PARTS, "minItems": 1, "description": "Cohere's parts; text ones only."},
        **PROMPT,
        "embedding_types": {"type": ["array", "null"], "items": {"enum": ["float", "base64"]}, "default": ["float"]},
        "output_dimension": _COUNT,
        "max_tokens": _COUNT,
        "truncate": {**TRUNCATE, "default": "END"},
    },
    ["model"],
    {"model": "support", "texts": ["My card was declined."], "input_type": "search_query"},
    {
        "type": "object",
        "properties": {
            "id": _STRING,
            "response_type": {"const": "embeddings_by_type"},
            "embeddings": {
                "type": "object",
                "properties": {"float": _VECTORS, "base64": {"type": "array", "items": _STRING}},
            },
            "texts": {"type": "array", "items": _STRING},
            "meta": _META,
        },
    },
    {"id": "0b4e", "response_type": "embeddings_by_type", "embeddings": {"float": [[0.036, -0.017, 0.081]]}},
    either=("texts", "inputs"),
)
