"""Reads the bodies of the embedding routes by hand: fast, and with messages that name the field and the index.

400 for what is not JSON, not UTF-8 or empty; 422 for wrong types and values; 413 for too many inputs.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from service.errors import Problem, invalid
from service.prompts import PromptChoice, prompt_choice

TOKEN_ARRAYS = (
    "holds token ids. This server takes text only, because ids of another tokenizer would give meaningless vectors. "
    "With LangChain's OpenAIEmbeddings set check_embedding_ctx_length=False; with other clients turn client-side "
    "tokenising off."
)

UNIT_LENGTH = "cannot be false: vectors are always of unit length"
CUTS_THE_END = "cannot cut the beginning of a text off: only its end can be cut"


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A checked body of POST /v1/embeddings."""

    model: str
    texts: list[str]
    base64: bool
    dimensions: int | None
    truncate: bool | None
    prompt: PromptChoice
    user: str | None = None


@dataclass(frozen=True, slots=True)
class SimilarityRequest:
    """A checked body of POST /v1/similarity; `matrix` asks for all pairs."""

    model: str
    a: list[str]
    b: list[str]
    matrix: bool
    truncate: bool | None
    prompt: PromptChoice


@dataclass(frozen=True, slots=True)
class NeighborsRequest:
    """A checked body of POST /v1/neighbors."""

    model: str
    texts: list[str]
    k: int
    truncate: bool | None
    prompt: PromptChoice


def embedding_request(body: bytes, max_inputs: int) -> EmbeddingRequest:
    """Read POST /v1/embeddings, with what Jina's, Voyage's and NVIDIA's clients add to OpenAI's fields.

    Unknown fields are ignored, as clients add their own; known ones that would change the vectors are not.

    Raises:
        Problem: 400, 413 or 422.
    """
    value = body_object(body)
    encoding = value.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise invalid("encoding_format", 'must be "float" or "base64"')
    user = value.get("user")
    if user is not None and not isinstance(user, str):
        raise invalid("user", "must be a string")
    other = _embedding_type(value.get("embedding_type"))
    if value.get("normalized") is False:
        raise invalid("normalized", UNIT_LENGTH)
    if value.get("late_chunking"):
        raise invalid("late_chunking", "is not supported: each text is embedded by itself")
    dimensions, other_dimensions = dimensions_of(value), dimensions_of(value, "output_dimension")
    return EmbeddingRequest(
        model=_model(value),
        texts=texts_of(value, "input", max_inputs),
        base64=(encoding or other) == "base64",
        dimensions=other_dimensions if dimensions is None else dimensions,
        truncate=truncate_of(value),
        prompt=prompt_choice(value),
        user=user,
    )


def similarity_request(body: bytes, max_inputs: int) -> SimilarityRequest:
    """Read POST /v1/similarity.

    Raises:
        Problem: 400, 413 or 422, also when pairs are asked for and the lists differ in length.
    """
    value = body_object(body)
    mode = value.get("mode", "pairs")
    if mode not in ("pairs", "matrix"):
        raise invalid("mode", 'must be "pairs" or "matrix"')
    model = _model(value)
    a, b = (texts_of(value, name, max_inputs) for name in ("a", "b"))
    if len(a) + len(b) > max_inputs:
        raise too_many("a and b together", len(a) + len(b), max_inputs)
    if mode == "pairs" and len(a) != len(b):
        raise invalid("b", f'has {len(b)} texts and a has {len(a)}: mode "pairs" needs as many')
    return SimilarityRequest(model, a, b, mode == "matrix", truncate_of(value), prompt_choice(value))


def neighbors_request(body: bytes, max_inputs: int, max_k: int, max_neighbors: int) -> NeighborsRequest:
    """Read POST /v1/neighbors; texts times k is bounded by `max_neighbors`.

    Raises:
        Problem: 400, 413 or 422.
    """
    value = body_object(body)
    k = whole(value.get("k", 10))
    if k is None or not 1 <= k <= max_k:
        raise invalid("k", f"must be an integer from 1 to {max_k}")
    texts = texts_of(value, "input", max_inputs)
    asked = NeighborsRequest(_model(value), texts, k, truncate_of(value), prompt_choice(value))
    if len(asked.texts) * k > max_neighbors:
        message = f"{len(asked.texts)} texts times k {k} is {len(asked.texts) * k} neighbours; the limit is "
        raise Problem(413, f"{message}{max_neighbors} in one request.", code="too_many_neighbors", param="k")
    return asked


def body_object(body: bytes) -> dict[str, Any]:
    """The JSON object a body holds.

    Raises:
        Problem: 400 when it is something else.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            body.decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"The body is not UTF-8 (byte {error.start})."
            raise Problem(400, message, code="not_utf8") from None
        raise Problem(400, "The body is not valid JSON.", code="malformed_json") from None
    if not isinstance(value, dict):
        raise Problem(400, "The body must be a JSON object.", code="malformed_json")
    return value


def truncate_of(value: dict[str, Any]) -> bool | None:
    """The `truncate` of a body: true, false or absent, or Cohere's "END" and "NONE".

    Raises:
        Problem: 422 for anything else.
    """
    truncate = value.get("truncate")
    if truncate is None or isinstance(truncate, bool):
        return truncate
    if truncate in ("END", "NONE"):
        return bool(truncate == "END")
    if truncate == "START":
        raise invalid("truncate", CUTS_THE_END)
    raise invalid("truncate", "must be true or false")


def dimensions_of(value: dict[str, Any], name: str = "dimensions") -> int | None:
    """The number of dimensions asked for, None for all.

    Raises:
        Problem: 422 when it is not a positive integer.
    """
    return count_of(value, name)


def count_of(value: dict[str, Any], name: str) -> int | None:
    """A number of things, None where it is left open.

    Raises:
        Problem: 422 when it is not a positive integer.
    """
    given = value.get(name)
    if given is None:
        return None
    count = whole(given)
    if count is None or count < 1:
        raise invalid(name, "must be an integer of at least 1")
    return count


def whole(value: Any) -> int | None:
    """The whole number that a JSON value is, 10.0 included as JSON makes no difference; None for anything else.

    Beyond 2**53 - 1 neighbours cannot be told apart as JSON numbers (RFC 8259), and nothing here is as many.
    """
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and abs(value) < 2**53 else None


def texts_of(value: dict[str, Any], name: str, max_inputs: int) -> list[str]:
    """The texts of a field: one string or a list; each may also be Jina's and Cohere's `{"text": "..."}`.

    Raises:
        Problem: 400 for no text or an empty one, 413 for too many, 422 for what is not text.
    """
    texts = value.get(name)
    if isinstance(texts, str):
        texts = [texts]
    if texts is None:
        raise invalid(name, "is required: a string or a list of strings")
    if not isinstance(texts, list):
        raise invalid(name, "must be a string or a list of strings")
    if not texts:
        raise Problem(400, f"{name} is an empty list.", code="empty_input", param=name)
    if len(texts) > max_inputs and not _is_token(texts[0]):
        raise too_many(name, len(texts), max_inputs)
    for index, text in enumerate(texts):
        if type(text) is not str:
            if _is_token(text) or (isinstance(text, list) and all(map(_is_token, text))):
                raise Problem(422, f"{name} {TOKEN_ARRAYS}", code="token_arrays_refused", param=name)
            text = text.get("text") if isinstance(text, dict) else None
            if type(text) is not str:
                raise invalid(name, f"must hold strings only; {name}[{index}] is not one")
            texts[index] = text
        if not text or text.isspace():
            raise Problem(400, f"{name}[{index}] is empty.", code="empty_input", param=name)
    return texts


def too_many(name: str, count: int, limit: int) -> Problem:
    """413 for more texts than one request may have."""
    message = f"{name} has {count} texts; the limit is {limit} in one request."
    return Problem(413, message, code="too_many_inputs", param=name)


def _model(value: dict[str, Any]) -> str:
    model = value.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("model", "is required and must be a string")
    return model


def _embedding_type(asked: Any) -> str:
    """Jina's name for the encoding, one or a list of one."""
    one = asked[0] if isinstance(asked, list) and len(asked) == 1 else asked
    if one not in (None, "float", "base64"):
        raise invalid("embedding_type", 'must be "float" or "base64"')
    return one or "float"


def _is_token(value: Any) -> bool:
    return type(value) is int
