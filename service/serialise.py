"""Answers as bytes: vectors go from their float32 buffer to the wire without becoming Python floats."""

from binascii import b2a_base64
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

JSON = "application/json"


def dump(value: Any) -> bytes:
    """JSON of plain values and numpy arrays; float32 is written as its shortest exact decimal."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z)


def rows(items: Iterable[Any]) -> orjson.Fragment:
    """A JSON list for use inside `dump`, written item by item: one large dump would hold up every other thread."""
    return orjson.Fragment(b"[%b]" % b",".join(map(dump, items)))


def usage(tokens: int, truncated: int) -> dict[str, int]:
    """OpenAI's usage object, with the number of texts that were cut."""
    return {"prompt_tokens": tokens, "total_tokens": tokens, "truncated": truncated}


def embeddings(vectors: NDArray[np.float32], *, model: str, tokens: int, truncated: int, base64: bool) -> bytes:
    """Body of POST /v1/embeddings from vectors (n, d) float32, C-contiguous."""
    tail = dump({"model": model, "usage": usage(tokens, truncated)})[1:]
    if base64:
        little = vectors.astype("<f4", copy=False)
        items = [
            b'{"object":"embedding","index":%d,"embedding":"%b"}' % (index, b2a_base64(row, newline=False))
            for index, row in enumerate(little)
        ]
    else:
        items = [
            b'{"object":"embedding","index":%d,"embedding":%b}' % (index, dump(row))
            for index, row in enumerate(vectors)
        ]
    return b'{"object":"list","data":[%b],%b' % (b",".join(items), tail)


def shorten(vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """The first `dimensions` components of each row, scaled to unit length again.

    Cutting and renormalising is how OpenAI's `dimensions` works (Matryoshka representations, Kusupati et al. 2022).
    """
    cut = np.ascontiguousarray(vectors[:, :dimensions])
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    shortened: NDArray[np.float32] = cut / np.maximum(norms, np.float32(1e-12))
    return shortened


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer of plain values, dates and numpy arrays."""
    return Response(dump(value), status, headers, media_type=JSON)
