"""The cache of base vectors: its bound, what a flood leaves of it, its keys, and who may use a cut text's entry."""

import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest

from service.cache import ENTRY_OVERHEAD, MOST_CHANCES, USES_TO_STAY, Entry, VectorCache, key_of, salt_of

SALT = bytes(32)
COST = 384 * 4 + ENTRY_OVERHEAD
BACKBONE, VERSION = "ab" * 32, "cd" * 32


def entry(value: float, *, truncated: bool = False) -> Entry:
    return Entry(np.full(384, value, dtype=np.float32), 3, truncated)


def key(name: object) -> bytes:
    return key_of(SALT, str(name))


def small(value: float) -> Entry:
    return Entry(np.full(1, value, dtype=np.float32), 1, False)


def cache_of(entries: int) -> VectorCache:
    """A cache for so many small entries."""
    return VectorCache(entries * (4 + ENTRY_OVERHEAD))


def ask(cache: VectorCache, name: object) -> bool:
    """Ask for a text as the service does: what is not there is computed and put."""
    if cache.get(key(name), truncate=False) is not None:
        return True
    cache.put(key(name), small(0))
    return False


class LeastRecentlyUsed:
    """What the cache is compared with."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self.order: OrderedDict[object, None] = OrderedDict()

    def ask(self, name: object) -> bool:
        found = name in self.order
        self.order[name] = None
        self.order.move_to_end(name)
        if len(self.order) > self.entries:
            self.order.popitem(last=False)
        return found


@pytest.fixture(scope="module")
def popular() -> list[int]:
    """30,000 draws from 20,000 texts whose popularity follows Zipf's law with exponent 1."""
    weights = 1 / np.arange(1, 20_001)
    return np.random.default_rng(1).choice(20_000, size=30_000, p=weights / weights.sum()).tolist()


def test_the_bound_holds_and_every_put_beyond_it_is_an_eviction():
    cache = VectorCache(50 * COST)
    for n in range(400):
        cache.put(key(n), entry(n))
        assert cache.bytes <= cache.limit_bytes
        assert cache.bytes == len(cache) * COST
    assert (len(cache), cache.evictions) == (50, 350)
    assert cache.get(key(399), truncate=False).vector[0] == 399
    assert cache.get(key(200), truncate=False) is None
    assert (cache.hits, cache.misses) == (1, 1)


def test_what_was_used_survives_any_number_of_texts_asked_for_once():
    cache = cache_of(1000)
    used = range(500)
    for n in used:
        ask(cache, n)
    for _ in range(USES_TO_STAY):
        assert all(ask(cache, n) for n in used)
    for n in range(20_000):
        ask(cache, f"flood {n}")
    assert all(ask(cache, n) for n in used)


def test_what_is_no_longer_used_gives_way():
    cache = cache_of(1000)
    for _ in range(4):
        for n in range(900):
            ask(cache, f"old {n}")
    for _ in range(8):
        for n in range(900):
            ask(cache, f"new {n}")
    assert all(ask(cache, f"new {n}") for n in range(900))


@pytest.mark.parametrize("copies", [1, 2], ids=["each text once", "each text twice"])
def test_a_flood_takes_little_of_the_hits_of_popular_texts(popular, copies):
    cache, lru = cache_of(1000), LeastRecentlyUsed(1000)
    calm, flooded, flooded_lru = [], [], []
    for position, name in enumerate(popular):
        hit, hit_lru = ask(cache, name), lru.ask(name)
        if position < 15_000:
            calm.append(hit)
            continue
        flooded.append(hit)
        flooded_lru.append(hit_lru)
        for n in range(8):  # eight of nine texts are a corpus's
            for _ in range(copies):
                ask(cache, f"flood {position} {n}")
                lru.ask(f"flood {position} {n}")
    before, during, least_recent = np.mean(calm[5_000:]), np.mean(flooded), np.mean(flooded_lru)
    assert during > before - 0.01
    assert during > least_recent + 0.2


def test_popular_texts_hit_after_one_pass_over_a_corpus(popular):
    cache, lru = cache_of(1000), LeastRecentlyUsed(1000)
    for name in popular[:25_000]:
        ask(cache, name)
        lru.ask(name)
    for n in range(5_000):
        ask(cache, f"corpus {n}")
        lru.ask(f"corpus {n}")
    after = np.mean([ask(cache, name) for name in popular[25_000:26_000]])
    assert after > np.mean([lru.ask(name) for name in popular[25_000:26_000]]) + 0.2


def test_one_put_into_a_cache_full_of_used_entries_does_bounded_work():
    cache = cache_of(10_000)
    for _ in range(5):
        for n in range(10_000):
            ask(cache, n)
    for n in range(1_000):
        main, evictions = len(cache._main), cache.evictions
        ask(cache, f"new {n}")
        assert cache.evictions == evictions + 1
        assert abs(len(cache._main) - main) <= MOST_CHANCES
    for _ in range(5):
        for held in list(cache._entries):
            cache.get(held, truncate=False)
    uses = sum(each.uses for each in cache._entries.values())
    ask(cache, "one more")
    assert uses - sum(each.uses for each in cache._entries.values()) <= MOST_CHANCES * (USES_TO_STAY + 1) + 3


def test_a_cached_vector_stays_the_same_and_counts_once():
    cache = VectorCache(10_000)
    for n in range(5):
        cache.put(b"k", entry(n))
    assert cache.bytes == COST
    assert cache.get(b"k", truncate=False).vector[0] == 0


def test_a_cut_text_is_no_hit_for_who_did_not_ask_for_cutting():
    cache = VectorCache(10_000)
    cache.put(b"k", entry(1, truncated=True))
    assert cache.get(b"k", truncate=False) is None
    assert cache.get(b"k", truncate=True) is not None


@pytest.mark.parametrize("limit", [0, COST - 1])
def test_a_cache_without_room_keeps_nothing(limit):
    cache = VectorCache(limit)
    cache.put(b"k", entry(1))
    assert len(cache) == 0


@pytest.mark.parametrize("room", [1, 2, 3, 11])
def test_the_smallest_caches_keep_what_was_put_last(room):
    cache = VectorCache(room * COST)
    for n in range(30):
        cache.put(key(n), entry(n))
        for _ in range(3):
            assert cache.get(key(n), truncate=False) is not None
    assert len(cache) == room


def test_keys_differ_by_exact_text_and_by_all_the_vector_depends_on():
    texts = ["a", "A", "a ", " a", "ä", "a\u0308", "ab", "\ud800"]
    salts = [
        salt_of(BACKBONE, "fp32"),
        salt_of(VERSION, "fp32"),
        salt_of(BACKBONE, "bf16"),
        salt_of(BACKBONE, "fp32", VERSION),
        salt_of(BACKBONE + VERSION, "fp32"),
        salt_of(BACKBONE, "fp32" + VERSION),
        salt_of(BACKBONE, "fp32", None, b"a secret"),
        salt_of(BACKBONE, "fp32", None, b"another secret" * 20),
    ]
    assert len({key_of(salt, text) for salt in salts for text in texts}) == len(salts) * len(texts)
    assert {len(salt) for salt in salts} == {32}
    assert {len(key_of(SALT, text)) for text in texts} == {16}
    assert salt_of(BACKBONE, "fp32", VERSION, b"s") == salt_of(BACKBONE, "fp32", VERSION, b"s")


@pytest.mark.parametrize("capacity", [2_000, 2_750])  # the dictionary at its fullest and at its emptiest
def test_the_bound_covers_the_memory_really_used(capacity):
    tracemalloc.start()
    cache = VectorCache(capacity * COST)
    worst = 0.0
    for n in range(3 * capacity):
        cache.put(key(n), Entry(np.full(384, n, dtype=np.float32), 300 + n, False))
        if n % 50 == 49:
            worst = max(worst, tracemalloc.get_traced_memory()[0] / cache.bytes)
    tracemalloc.stop()
    assert 0.5 < worst <= 1.02
    assert len(cache) == capacity
