"""The shapes of the API: pydantic models for the admin routes, and OpenAPI documents of the routes written by hand."""

import re
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator

from registry.keys import MAX_RETAIN_DAYS, Scope
from registry.quotas import MOST
from service.origin import PARAMETERS

MOST_EXACT = 2**53 - 1
"""The largest whole number that JSON holds exactly everywhere."""
NAME_PATTERN = "^[a-z0-9][a-z0-9._-]{0,63}$"
MODEL_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(@[1-9][0-9]{0,8})?$"


def _written(value: object) -> object:
    if not isinstance(value, str) or not _DATE.match(value):
        raise ValueError("must be a moment such as 2030-01-31T12:00:00Z")
    return value


_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")
Moment = Annotated[AwareDatetime, Strict(False), BeforeValidator(_written)]
"""A moment with a time zone as RFC 3339 writes it; a number of seconds is refused, not guessed at."""


class Body(BaseModel):
    """A request body; a misspelt field is refused rather than ignored, and "1" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, value: object) -> object:
        """10.0 is a whole number in JSON."""
        return {name: _exact(item) for name, item in value.items()} if isinstance(value, dict) else value


def _exact(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= MOST_EXACT else value


class RetrainRequest(Body):
    """What to fit, on which rows, and how."""

    adapter: str = Field(
        description="Name of the adapter; made by the job if it does not exist.",
        json_schema_extra={"pattern": NAME_PATTERN},
    )
    dataset: str = Field(
        description="Name of a dataset; its newest revision, or `name@revision`.",
        json_schema_extra={"pattern": MODEL_PATTERN},
    )
    recipe: dict[str, Any] = Field(default_factory=dict, description="Recipe fields that differ from the defaults.")
    reason: str | None = Field(None, max_length=200, description="Why, for the record.")


class PromoteRequest(Body):
    """Which version goes live."""

    version: int = Field(ge=1, description="Number of the version.")
    force: bool = Field(False, description="Promote a version that the gate rejected.")
    expect_live: int | None = Field(None, ge=1, description="Refuse if another version than this one is live now.")


class RolloutRequest(Body):
    """Which version is served beside the live one, and on which rules; a rule left out keeps its default."""

    version: int = Field(ge=1, description="Number of the version.")
    force: bool = Field(False, description="Also a version that the gate rejected.")
    mode: Literal["shadow", "canary"] = Field("shadow", description="Compute what was answered, or answer a share.")
    share: float | None = Field(None, description="Of a canary: share of units that the candidate answers.")
    stages: list[float] | None = Field(None, description="Of a canary: growing shares, one stage each.")
    unit: Literal["key", "user", "header"] | None = Field(
        None, description="Of a canary: kept together by API key, by `user` field, or by header x-driftline-unit."
    )
    sample: float | None = Field(None, description="Share of requests that are compared.")
    min_observations: int | None = Field(None, description="Compared requests that each stage needs.")
    max_disagreement: float | None = Field(None, description="Most disagreement of the nearest items.")
    max_vote_disagreement: float | None = Field(None, description="Most disagreement of their commonest label.")
    max_error_rate: float | None = Field(None, description="Most requests that the candidate may fail to compute.")
    max_latency_ratio: float | None = Field(None, description="A request that takes longer by more than this is slow.")
    duration_s: float | None = Field(None, description="Seconds until a rollout without an answer is stopped.")
    confidence: float | None = Field(None, description="With which all bounds together hold.")
    on_success: Literal["promote", "hold"] | None = Field(
        None, description="Promote by itself, or leave it to a person."
    )

    def rules(self) -> dict[str, Any]:
        """The rules that were given."""
        return self.model_dump(exclude={"version", "force"}, exclude_none=True)


class RolloutEndRequest(Body):
    """How a person ends a rollout."""

    reason: str | None = Field(None, max_length=200, description="Why, for the record.")
    force: bool = Field(False, description="Promote a version that the gate rejected.")


_Scope = Annotated[Scope, Strict(False)]


class KeyRequest(Body):
    """A key to make."""

    name: str = Field(min_length=1, max_length=80, description="Whose key it is.")
    scopes: list[_Scope] = Field(min_length=1, description="What it may do; admin implies the rest.")
    expires_at: Moment | None = Field(None, description="When it ends; with a time zone.")
    retain_texts_days: int | None = Field(
        None, ge=1, le=MAX_RETAIN_DAYS, description="Days for which texts sent with it are kept; none by default."
    )


class KeyLimitsRequest(Body):
    """What a key may ask for; a limit that is left out is none."""

    texts_per_minute: int | None = Field(None, ge=1, le=MOST, description="Held by each service on its own.")
    texts_per_day: int | None = Field(
        None, ge=1, le=MOST, description="From midnight to midnight UTC, over all services together."
    )


class ProblemError(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ProblemBody(BaseModel):
    """RFC 9457 problem with OpenAI's `error` member; the body of every answer that is not a success."""

    type: str
    title: str
    status: int
    detail: str
    error: ProblemError


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: its refusals, all of one shape."""
    schema = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}}
    return {status: {"description": _MEANING[status], "content": schema} for status in statuses}


_MEANING = {
    400: "Malformed or empty",
    401: "No valid key",
    403: "The key lacks the scope",
    404: "Unknown",
    409: "Conflict",
    413: "Too large",
    415: "A compressed body",
    422: "Invalid",
    429: "Too much is waiting; see Retry-After",
    503: "Not ready; see Retry-After",
    504: "Deadline passed",
}

TEXT: dict[str, Any] = {"type": "string", "minLength": 1, "pattern": r"\S"}
"""A text as every route takes it: not blank."""
ONE_TEXT: dict[str, Any] = {
    "anyOf": [TEXT, {"type": "object", "properties": {"text": TEXT}, "required": ["text"]}],
    "description": "A string, or Jina's and Cohere's object with a text.",
}


def texts(most: int | None = None) -> dict[str, Any]:
    """One text or a list of them, of at most so many."""
    many: dict[str, Any] = {"type": "array", "items": ONE_TEXT, "minItems": 1}
    many |= {} if most is None else {"maxItems": most}
    return {"anyOf": [TEXT, many], "description": "One text or a list of texts. Token ids are refused."}


_TEXTS = texts(2048)
_MODEL = {
    "type": "string",
    "minLength": 1,
    "description": "A backbone, an adapter (its live version), or adapter@version.",
}
TRUNCATE: dict[str, Any] = {
    "enum": [True, False, "END", "NONE", None],
    "description": "Cut texts over the limit instead of refusing the request; Cohere's END is true and NONE false; "
    "unset: the setting truncate.",
}
_DIMENSIONS: dict[str, Any] = {
    "type": ["integer", "null"],
    "minimum": 1,
    "maximum": MOST_EXACT,
    "description": "Cut to these and scale to unit length.",
}
_FORMAT: dict[str, Any] = {"enum": ["float", "base64", None]}
PROMPT: dict[str, Any] = {
    "prompt_name": {
        "type": ["string", "null"],
        "description": "Prompt of the backbone, by name, put in front of each text.",
    },
    "input_type": {
        "type": ["string", "null"],
        "description": "What the texts are for (query, document, search_query, ...): the backbone's prompt for that, "
        "where it has one.",
    },
    "task": {
        "type": ["string", "null"],
        "description": "Jina's name of input_type: retrieval.query, retrieval.passage, ...",
    },
}
_USAGE = {
    "type": "object",
    "properties": {
        "prompt_tokens": {"type": "integer"},
        "total_tokens": {"type": "integer"},
        "truncated": {"type": "integer", "description": "How many texts were cut to the limit."},
    },
}
_VERSION_HEADER = {
    "x-driftline-version": {
        "description": "The exact version that computed the answer.",
        "schema": {"type": "string"},
    }
}


def _document(
    properties: dict[str, Any], required: list[str], answer: dict[str, Any], example: dict[str, Any]
) -> dict[str, Any]:
    body = {"type": "object", "properties": {**properties, **PROMPT}, "required": required}
    return {
        "parameters": [*PARAMETERS],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body, "example": example}}},
        "responses": {
            "200": {
                "description": "Computed",
                "headers": _VERSION_HEADER,
                "content": {"application/json": {"schema": {"type": "object", "properties": answer}}},
            }
        },
    }


EMBEDDINGS = _document(
    {
        "model": _MODEL,
        "input": _TEXTS,
        "encoding_format": {**_FORMAT, "default": "float"},
        "dimensions": _DIMENSIONS,
        "truncate": TRUNCATE,
        "user": {"type": ["string", "null"]},
        "embedding_type": {
            "anyOf": [_FORMAT, {"type": "array", "items": _FORMAT, "minItems": 1, "maxItems": 1}],
            "description": "Jina's name of encoding_format.",
        },
        "output_dimension": {**_DIMENSIONS, "description": "Voyage's name of dimensions."},
    },
    ["model", "input"],
    {
        "object": {"const": "list"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "object": {"const": "embedding"},
                    "index": {"type": "integer"},
                    "embedding": {
                        "oneOf": [
                            {"type": "array", "items": {"type": "number"}},
                            {"type": "string", "description": "base64 of little-endian float32"},
                        ]
                    },
                },
            },
        },
        "model": {"type": "string"},
        "usage": _USAGE,
    },
    {"model": "support", "input": ["My card was declined."]},
)

SIMILARITY = _document(
    {
        "model": _MODEL,
        "a": _TEXTS,
        "b": _TEXTS,
        "mode": {"type": "string", "enum": ["pairs", "matrix"], "default": "pairs"},
        "truncate": TRUNCATE,
    },
    ["model", "a", "b"],
    {
        "scores": {
            "type": "array",
            "description": "Cosine of each pair, or one row for each text of a.",
            "items": {"oneOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}}]},
        },
        "model": {"type": "string"},
        "usage": _USAGE,
    },
    {"model": "support", "a": ["My card was declined."], "b": ["Why was my payment refused?"]},
)

NEIGHBORS = _document(
    {
        "model": {**_MODEL, "description": "An adapter, or adapter@version: what has a reference."},
        "input": _TEXTS,
        "k": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
        "truncate": TRUNCATE,
    },
    ["model", "input"],
    {
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "index": {"type": "integer"},
                    "novelty": {
                        "type": "number",
                        "description": "Conformal p-value; small: unlike the reference.",
                    },
                    "neighbors": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "id": {"type": "string"},
                                "label": {"type": ["string", "null"]},
                                "score": {"type": "number"},
                            },
                        },
                    },
                },
            },
        },
        "model": {"type": "string"},
        "usage": _USAGE,
    },
    {"model": "support", "input": ["My card was declined."], "k": 3},
)
