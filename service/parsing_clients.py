"""Reads the bodies that clients of other servers send: Text Embeddings Inference's, Cohere's and Jina's."""

from dataclasses import dataclass
from typing import Any

from service.errors import Problem, invalid
from service.parsing import UNIT_LENGTH, body_object, count_of, dimensions_of, texts_of, truncate_of
from service.prompts import PromptChoice, prompt_choice


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """A checked body of TEI's POST /embed. `left`: the client wants the beginning cut off where it is too long."""

    model: str | None
    texts: list[str]
    dimensions: int | None
    truncate: bool | None
    left: bool
    prompt: PromptChoice


@dataclass(frozen=True, slots=True)
class SentencesRequest:
    """A checked body of TEI's POST /similarity."""

    model: str | None
    source: str
    sentences: list[str]
    truncate: bool | None
    left: bool
    prompt: PromptChoice


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """A checked body of TEI's POST /tokenize."""

    model: str | None
    texts: list[str]
    special: bool
    prompt: PromptChoice


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """A checked body of TEI's POST /decode."""

    model: str | None
    ids: list[list[int]]
    skip_special: bool


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """A checked body of a rerank route.

    Attributes:
        tei: In TEI's shape (`texts`), else in Cohere's and Jina's (`documents`).
        top_n: Most results wanted, None for all.
        return_documents: Whether results repeat their text; None where the request leaves it open.
        max_tokens: Tokens of each document that count, None for all the model reads.
        raw: TEI's `raw_scores`: the cosine itself.
    """

    tei: bool
    model: str | None
    query: str
    documents: list[str]
    top_n: int | None
    return_documents: bool | None
    max_tokens: int | None
    truncate: bool | None
    raw: bool


@dataclass(frozen=True, slots=True)
class CohereEmbedRequest:
    """A checked body of Cohere's POST /v2/embed; `types` are the encodings wanted, "float" or "base64"."""

    model: str
    texts: list[str]
    types: list[str]
    dimensions: int | None
    max_tokens: int | None
    truncate: bool | None
    prompt: PromptChoice


def embed_request(body: bytes, max_inputs: int) -> EmbedRequest:
    """Read TEI's POST /embed.

    Raises:
        Problem: 400, 413 or 422.
    """
    value = body_object(body)
    if _flag(value, "normalize") is False:
        raise invalid("normalize", UNIT_LENGTH)
    return EmbedRequest(
        model=_model(value),
        texts=texts_of(value, "inputs", max_inputs),
        dimensions=dimensions_of(value),
        truncate=truncate_of(value),
        left=_left(value),
        prompt=prompt_choice(value),
    )


def sentences_request(body: bytes, max_inputs: int) -> SentencesRequest:
    """Read TEI's POST /similarity: one sentence and those it is compared with.

    Raises:
        Problem: 400, 413 or 422.
    """
    value = body_object(body)
    inputs, parameters = value.get("inputs"), value.get("parameters")
    if not isinstance(inputs, dict):
        raise invalid("inputs", 'must be an object with "source_sentence" and "sentences"')
    if parameters is not None and not isinstance(parameters, dict):
        raise invalid("parameters", "must be an object")
    parameters = parameters or {}
    return SentencesRequest(
        model=_model(value),
        source=_text(inputs, "source_sentence"),
        sentences=texts_of(inputs, "sentences", max_inputs),
        truncate=truncate_of(parameters),
        left=_left(parameters),
        prompt=prompt_choice(parameters),
    )


def tokenize_request(body: bytes, max_inputs: int) -> TokenizeRequest:
    """Read TEI's POST /tokenize.

    Raises:
        Problem: 400, 413 or 422.
    """
    value = body_object(body)
    texts = texts_of(value, "inputs", max_inputs)
    return TokenizeRequest(_model(value), texts, _flag(value, "add_special_tokens") is not False, prompt_choice(value))


def decode_request(body: bytes, max_inputs: int, max_tokens: int) -> DecodeRequest:
    """Read TEI's POST /decode: token ids of one text or of several.

    Raises:
        Problem: 400, 413 or 422.
    """
    value = body_object(body)
    ids = value.get("ids")
    if not isinstance(ids, list) or not ids:
        raise invalid("ids", "is required: token ids of one text, or a list of such lists")
    rows = ids if isinstance(ids[0], list) else [ids]
    if len(rows) > max_inputs:
        raise Problem(413, f"ids has {len(rows)} rows; the limit is {max_inputs}.", code="too_many_inputs", param="ids")
    if not all(isinstance(row, list) and all(type(number) is int for number in row) for row in rows):
        raise invalid("ids", "must hold integers only")
    total = sum(map(len, rows))
    if total > max_tokens:
        raise Problem(413, f"ids holds {total} ids; the limit is {max_tokens}.", code="too_many_tokens", param="ids")
    return DecodeRequest(_model(value), rows, _flag(value, "skip_special_tokens") is not False)


def rerank_request(body: bytes, max_inputs: int) -> RerankRequest:
    """Read a rerank body in whichever of the two shapes it comes.

    Raises:
        Problem: 400, 413 or 422.
    """
    value = body_object(body)
    if "texts" in value and "documents" in value:
        raise invalid("texts", "and documents mean the same: send one of them")
    tei = "texts" in value
    flags = {name: _flag(value, name) for name in ("return_text", "return_documents")}
    for name in ("rank_fields", "relevant_spans"):
        if value.get(name) not in (None, ["text"]):
            raise invalid(name, "is not supported: a document is one text")
    return RerankRequest(
        tei=tei,
        model=_model(value),
        query=_text(value, "query"),
        documents=texts_of(value, "texts" if tei else "documents", max_inputs),
        top_n=count_of(value, "top_n"),
        return_documents=flags["return_text" if tei else "return_documents"],
        max_tokens=count_of(value, "max_tokens_per_doc"),
        truncate=truncate_of(value),
        raw=_flag(value, "raw_scores") is True,
    )


def cohere_embed_request(body: bytes, max_inputs: int) -> CohereEmbedRequest:
    """Read Cohere's POST /v2/embed; texts come as `texts`, or as `inputs` of text parts.

    Raises:
        Problem: 400, 413 or 422.
    """
    value = body_object(body)
    if value.get("images"):
        raise invalid("images", "are not supported: this server embeds text")
    types = value.get("embedding_types")
    types = ["float"] if types is None or types == [] else types
    if not isinstance(types, list) or not all(one in ("float", "base64") for one in types):
        raise invalid("embedding_types", 'may hold "float" and "base64"')
    if "inputs" in value:
        value["texts"] = _parts(value)
    model = _model(value)
    if model is None:
        raise invalid("model", "is required and must be a string")
    return CohereEmbedRequest(
        model=model,
        texts=texts_of(value, "texts", max_inputs),
        types=types,
        dimensions=dimensions_of(value, "output_dimension"),
        max_tokens=count_of(value, "max_tokens"),
        truncate=truncate_of(value),
        prompt=prompt_choice(value),
    )


def _parts(value: dict[str, Any]) -> list[str]:
    """The texts of Cohere's `inputs`, which stand in the place of `texts`."""
    if value.get("texts") is not None:
        raise invalid("inputs", "and texts mean the same: send one of them")
    inputs = value["inputs"]
    if not isinstance(inputs, list):
        raise invalid("inputs", "must be a list")
    return [_joined(index, item) for index, item in enumerate(inputs)]


def _joined(index: int, item: Any) -> str:
    """The text of one of Cohere's `inputs`: its text parts, one after the other."""
    parts = item.get("content") if isinstance(item, dict) else None
    texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    if not texts or len(texts) != len(parts or ()) or not all(isinstance(text, str) for text in texts):
        raise invalid("inputs", f"must hold text parts only; inputs[{index}] does not")
    return "\n".join(map(str, texts))


def _model(value: dict[str, Any]) -> str | None:
    model = value.get("model")
    if model is not None and (not isinstance(model, str) or not model):
        raise invalid("model", "must be a string")
    return model


def _text(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    if isinstance(text, dict):
        text = text.get("text")
    if type(text) is not str:
        raise invalid(name, "is required and must be a string")
    if not text or text.isspace():
        raise Problem(400, f"{name} is empty.", code="empty_input", param=name)
    return text


def _flag(value: dict[str, Any], name: str) -> bool | None:
    flag = value.get(name)
    if flag is not None and not isinstance(flag, bool):
        raise invalid(name, "must be true or false")
    return flag


def _left(value: dict[str, Any]) -> bool:
    direction = value.get("truncation_direction")
    if direction is None or (isinstance(direction, str) and direction.lower() == "right"):
        return False
    if isinstance(direction, str) and direction.lower() == "left":
        return True
    raise invalid("truncation_direction", 'must be "right"')
