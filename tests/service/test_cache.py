"""The cache of base vectors: its bound, its order, and who may use a cut text's entry."""

import tracemalloc

import numpy as np

from service.cache import ENTRY_OVERHEAD, Entry, VectorCache, key_of

SALT = bytes(32)


def entry(value: float, *, truncated: bool = False) -> Entry:
    return Entry(np.full(384, value, dtype=np.float32), 3, truncated)


def test_the_least_recently_used_entry_goes_first():
    cache = VectorCache(3 * (384 * 4 + ENTRY_OVERHEAD))
    for n in range(3):
        cache.put(bytes([n]), entry(n))
    assert cache.get(b"\x00", truncate=False) is not None
    cache.put(b"\x03", entry(3))
    assert cache.get(b"\x01", truncate=False) is None
    assert [cache.get(bytes([n]), truncate=False).vector[0] for n in (0, 2, 3)] == [0, 2, 3]
    assert (cache.hits, cache.misses, cache.evictions, len(cache)) == (4, 1, 1, 3)
    assert cache.bytes <= cache.limit_bytes


def test_replacing_an_entry_does_not_count_it_twice():
    cache = VectorCache(10_000)
    for _ in range(5):
        cache.put(b"k", entry(1))
    assert cache.bytes == 384 * 4 + ENTRY_OVERHEAD


def test_a_cut_text_is_no_hit_for_who_did_not_ask_for_cutting():
    cache = VectorCache(10_000)
    cache.put(b"k", entry(1, truncated=True))
    assert cache.get(b"k", truncate=False) is None
    assert cache.get(b"k", truncate=True) is not None


def test_a_cache_of_no_bytes_keeps_nothing():
    cache = VectorCache(0)
    cache.put(b"k", entry(1))
    assert len(cache) == 0


def test_keys_differ_by_exact_text_and_by_backbone():
    texts = ["a", "A", "a ", " a", "ä", "a\u0308", "ab", "\ud800"]
    keys = {key_of(salt, text) for salt in (SALT, bytes([1]) * 32) for text in texts}
    assert len(keys) == 2 * len(texts)
    assert key_of(SALT, "a") == key_of(SALT, "a")


def test_the_bound_covers_the_memory_really_used():
    count = 2_000
    tracemalloc.start()
    cache = VectorCache(2**30)
    for n in range(count):
        cache.put(key_of(SALT, str(n)), entry(n))
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert used <= cache.bytes * 1.02
    assert len(cache) == count
