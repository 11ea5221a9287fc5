"""Exact cache of base vectors in this process: bounded in bytes, not flushed by a flood, used by the event loop only.

Eviction is S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023). A new
text is on probation in a small queue and enters the main queue only when it is asked for again, so a pass over a corpus
goes through a tenth of the cache and leaves the rest alone. A hit moves nothing: it adds one to the entry's count of
uses. Base vectors are cached before any head adapter, so one entry serves all heads of a backbone.
"""

import hashlib
from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

# What one entry costs beside its vector: key, Entry, array header, token count, its places in the dictionary and in a
# queue, its slots in the table of evicted keys. CPython 3.11: resident memory of 104,000 entries says 430 bytes, and
# tracemalloc at the dictionary's emptiest 400; stated a little high so that the bound holds.
ENTRY_OVERHEAD: Final = 480

# Share of the bytes that is probation, and the uses there after which an entry is kept. Asking twice for a text happens
# in floods too (a retry, an index built from what was just embedded), hence more than one use, as in the paper.
PROBATION_SHARE: Final = 0.1
USES_TO_STAY: Final = 2
MOST_USES: Final = 3
# An eviction passes at most this many used entries of the main queue and then takes the next one regardless. Without
# it, a cache whose every entry is in use would be walked through for one insertion: tens of milliseconds.
MOST_CHANCES: Final = 64


@dataclass(slots=True)
class Entry:
    """A computed text: its base vector (d,) float32, the tokens embedded, and whether the text was cut to fit.

    `uses` belongs to the cache that holds the entry.
    """

    vector: NDArray[np.float32]
    tokens: int
    truncated: bool
    uses: int = field(default=0, compare=False, repr=False)


def salt_of(backbone_digest: str, precision: str, version_digest: str | None = None, secret: bytes = b"") -> bytes:
    """What 32 bytes stand for everything but the text that a base vector depends on.

    Args:
        backbone_digest: Hexadecimal; covers weights, tokeniser, pooling and the length texts are cut to.
        precision: Arithmetic of the session: a bf16 vector is not an fp32 vector.
        version_digest: Of the LoRA version the vector is computed under; None for the backbone alone and under heads.
        secret: The service's `cache_salt`; who does not know it can neither guess keys nor look texts up by them.
    """
    parts = (backbone_digest, precision, version_digest or "")
    message = b"".join(len(part).to_bytes(4, "little") + part for part in map(str.encode, parts))
    return hashlib.blake2b(message, digest_size=32, key=key_material(secret), person=b"driftline salt").digest()


def key_material(secret: bytes) -> bytes:
    """A secret of any length as a key of BLAKE2b (64 bytes); no bytes for no secret."""
    return hashlib.blake2b(secret, person=b"driftline secret").digest() if secret else b""


def key_of(salt: bytes, text: str) -> bytes:
    """Cache key (16 bytes) of an exact text, prompt included, under a salt of `salt_of`.

    128 bits: two of n texts share a key with probability n² / 2^129, one in 10^14 for 2.6 billion texts; nobody can aim
    at another's key for less than 2^128 tries.
    """
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=salt).digest()


class VectorCache:
    """S3-FIFO cache of `Entry` by key. Not thread-safe: everything happens on the event loop.

    `get` and `put` take constant time.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._entries: dict[bytes, Entry] = {}
        self._probation: deque[bytes] = deque()
        self._main: deque[bytes] = deque()
        self._probation_limit = int(limit_bytes * PROBATION_SHARE)
        self._probation_bytes = 0
        self._evicted = array("q")

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, *, truncate: bool) -> Entry | None:
        """The entry, or None; an entry of a cut text is no hit for a caller who did not ask for cutting."""
        entry = self._entries.get(key)
        if entry is None or (entry.truncated and not truncate):
            self.misses += 1
            return None
        self.hits += 1
        if entry.uses < MOST_USES:
            entry.uses += 1
        return entry

    def peek(self, key: bytes) -> Entry | None:
        """The entry without counting a look-up or a use."""
        return self._entries.get(key)

    def put(self, key: bytes, entry: Entry) -> None:
        """Keep an entry, dropping others beyond the limit; `entry.vector` must own its memory.

        An entry that is there stays: as long as a text is cached, its vector is the same to the last bit.
        """
        cost = _cost(entry)
        if cost > self.limit_bytes or key in self._entries:
            return
        entry.uses = 0
        self._entries[key] = entry
        self.bytes += cost
        if self._was_evicted(key):
            self._main.append(key)
        else:
            self._probation.append(key)
            self._probation_bytes += cost
        while self._probation_bytes > self._probation_limit and len(self._probation) > 1:
            self._end_probation()
        while self.bytes > self.limit_bytes:
            self._evict_from_main()

    def _end_probation(self) -> None:
        """The oldest on probation enters the main queue if it was used or there is room, else it leaves the cache."""
        key = self._probation.popleft()
        entry = self._entries[key]
        self._probation_bytes -= _cost(entry)
        if entry.uses >= USES_TO_STAY or self.bytes <= self.limit_bytes:
            entry.uses = 0
            self._main.append(key)
            return
        if not self._evicted:
            # Known only now: how many entries fill the cache. Twice as many slots, for a slot holds one key.
            self._evicted = array("q", bytes(16 * len(self._entries)))
        trace = hash(key)
        self._evicted[trace % len(self._evicted)] = trace
        self._drop(key)

    def _evict_from_main(self) -> None:
        """The oldest of the main queue goes; those that were used since they were last met go to its end instead."""
        for _ in range(MOST_CHANCES):
            key = self._main.popleft()
            entry = self._entries[key]
            if not entry.uses:
                break
            entry.uses -= 1
            self._main.append(key)
        else:
            key = self._main.popleft()
        self._drop(key)

    def _drop(self, key: bytes) -> None:
        self.bytes -= _cost(self._entries.pop(key))
        self.evictions += 1

    def _was_evicted(self, key: bytes) -> bool:
        """Whether the key left probation lately; a slot that a later key took has forgotten the earlier one."""
        if not self._evicted:
            return False
        trace = hash(key)
        return self._evicted[trace % len(self._evicted)] == trace


def _cost(entry: Entry) -> int:
    return entry.vector.nbytes + ENTRY_OVERHEAD
