"""How an entry of the cache is written in a shared server, and what is believed of what comes back from there.

Version 1, little-endian: u8 version, u8 flags (1: text was cut), u16 zero, u32 dimension, u32 tokens, the vector as
float32, 16 bytes BLAKE2b over key and all before. The digest covers the key, so a value under another's key is refused
as well; it is keyed by the service's `cache_salt`, so who does not know that cannot make values that are believed.
"""

import hashlib
import hmac
import struct
from typing import Final

import numpy as np

from service.cache import Entry, key_material

VERSION: Final = 1
CUT: Final = 1
HEADER: Final = struct.Struct("<BBHII")
DIGEST_BYTES: Final = 16


class ValueFormat:
    """Writes and reads values.

    Args:
        secret: The service's `cache_salt`; without one the digest shows damage but not forgery.
    """

    def __init__(self, secret: bytes = b"") -> None:
        self._secret = key_material(secret)

    def encode(self, key: bytes, entry: Entry) -> bytes:
        """The entry as a value to be kept under a key."""
        vector = entry.vector
        head = HEADER.pack(VERSION, CUT if entry.truncated else 0, 0, vector.size, entry.tokens)
        body = head + vector.astype("<f4", copy=False).tobytes()
        return body + self._digest(key, body)

    def decode(self, key: bytes, value: object, dimension: int) -> Entry | None:
        """The entry kept under a key, with a vector (dimension,) float32 of its own; None for anything but that."""
        if not isinstance(value, bytes) or len(value) != HEADER.size + 4 * dimension + DIGEST_BYTES:
            return None
        version, flags, zero, size, tokens = HEADER.unpack_from(value)
        if version != VERSION or flags & ~CUT or zero or size != dimension or not tokens:
            return None
        if not hmac.compare_digest(self._digest(key, value[:-DIGEST_BYTES]), value[-DIGEST_BYTES:]):
            return None
        vector = np.frombuffer(value, "<f4", dimension, HEADER.size).astype(np.float32)
        if not np.isfinite(vector).all():
            return None
        return Entry(vector, tokens, bool(flags & CUT))

    def _digest(self, key: bytes, body: bytes) -> bytes:
        digest = hashlib.blake2b(key, digest_size=DIGEST_BYTES, key=self._secret, person=b"driftline value")
        digest.update(body)
        return digest.digest()
