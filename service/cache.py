"""Exact cache of base vectors: least recently used out first, bounded in bytes, used by the event loop only.

The key is a keyed BLAKE2b digest over the exact text, the key being the backbone's digest: two backbones never share an
entry, and no text is kept. Base vectors are cached before any adapter, so one entry serves all adapters of a backbone.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# What one entry costs beside its vector: key, entry object, array header and the ordered dictionary's link, measured
# on CPython 3.11 with tracemalloc (about 440 bytes); stated a little high so that the bound holds.
ENTRY_OVERHEAD = 480


@dataclass(frozen=True, slots=True)
class Entry:
    """A computed text: its base vector (d,) float32, the tokens embedded, and whether the text was cut to fit."""

    vector: NDArray[np.float32]
    tokens: int
    truncated: bool


def key_of(backbone: bytes, text: str) -> bytes:
    """Cache key (16 bytes) of a text under a backbone; `backbone` is the first 32 bytes of its binary digest.

    128 bits: a collision that would serve one text another's vector needs about 2^64 texts.
    """
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=backbone).digest()


class VectorCache:
    """LRU cache of `Entry` by key. Not thread-safe: everything happens on the event loop."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, *, truncate: bool) -> Entry | None:
        """The entry, or None; an entry of a cut text is no hit for a caller who did not ask for cutting."""
        entry = self._entries.get(key)
        if entry is None or (entry.truncated and not truncate):
            self.misses += 1
            return None
        self._entries.move_to_end(key)
        self.hits += 1
        return entry

    def peek(self, key: bytes) -> Entry | None:
        """The entry without counting a look-up or renewing it."""
        return self._entries.get(key)

    def put(self, key: bytes, entry: Entry) -> None:
        """Keep an entry, dropping the least recently used ones beyond the limit; `entry.vector` must own its memory."""
        cost = entry.vector.nbytes + ENTRY_OVERHEAD
        if cost > self.limit_bytes:
            return
        if (old := self._entries.pop(key, None)) is not None:
            self.bytes -= old.vector.nbytes + ENTRY_OVERHEAD
        self._entries[key] = entry
        self.bytes += cost
        while self.bytes > self.limit_bytes:
            _, gone = self._entries.popitem(last=False)
            self.bytes -= gone.vector.nbytes + ENTRY_OVERHEAD
            self.evictions += 1
