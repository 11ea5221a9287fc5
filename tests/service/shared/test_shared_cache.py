"""The shared tier against a real server: shared, killed, frozen, emptied, full, spoiled, and never in the way."""

import asyncio
import shutil
import subprocess
import time

import numpy as np
import pytest
import structlog
import uvloop
from pydantic import ValidationError

from monitoring.metrics import Metrics
from service.breaker import BreakerState
from service.cache import Entry
from service.settings import Settings
from service.shared_cache import QUEUE_BYTES, SharedCache
from service.shared_server import NAMESPACE, CacheUnusable, Reason, SharedServer

DIMENSION = 384
LIMIT = 0.1  # of a read, in these tests
SLACK = 0.3  # for a machine that does other things as well


def key(n: int) -> bytes:
    return n.to_bytes(16, "little")


def entry(n: int, dimension: int = DIMENSION) -> Entry:
    return Entry(np.random.default_rng(n).normal(size=dimension).astype(np.float32), n % 500 + 1, n % 3 == 0)


def same(found: Entry | None, expected: Entry) -> bool:
    return (
        found is not None
        and np.array_equal(found.vector, expected.vector)
        and (found.tokens, found.truncated) == (expected.tokens, expected.truncated)
    )


def metric(cache: SharedCache, name: str, **labels: str) -> float:
    value = cache._metrics.registry.get_sample_value(f"driftline_shared_cache_{name}", labels)
    assert value is not None, name
    return value


async def until(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def reached(cache: SharedCache) -> None:
    await until(lambda: cache.state is BreakerState.CLOSED)


async def written(cache: SharedCache, numbers) -> None:
    before = metric(cache, "written_total")
    cache.put_many([(key(n), entry(n)) for n in numbers])
    await until(lambda: metric(cache, "written_total") == before + len(numbers))


async def test_what_one_writes_another_reads_to_the_bit(valkey, share):
    one, other = share(valkey.url, ttl=777), share(valkey.url)
    await asyncio.gather(reached(one), reached(other))
    numbers = range(700)
    await written(one, numbers)
    found = await other.get_many([key(10**6), *map(key, numbers)], DIMENSION)
    assert found[0] is None
    assert all(same(got, entry(n)) for got, n in zip(found[1:], numbers, strict=True))
    assert all(got.vector.flags.owndata and got.vector.dtype == np.float32 for got in found[1:])
    assert (metric(other, "hits_total"), metric(other, "misses_total"), metric(other, "skipped_total")) == (700, 1, 0)
    assert metric(other, "seconds_count", operation="read") >= 3  # half a megabyte at a time
    with valkey.admin() as admin:
        assert {each[: len(NAMESPACE)] for each in admin.scan_iter()} == {NAMESPACE}
        assert 770 < admin.ttl(NAMESPACE + key(5)) <= 777
        admin.flushall()
    assert await other.get_many([key(1)], DIMENSION) == [None]
    assert metric(other, "misses_total") == 2


async def test_requests_that_come_together_share_round_trips(valkey, share):
    cache = share(valkey.url)
    await reached(cache)
    await written(cache, range(60))
    reads = metric(cache, "seconds_count", operation="read")
    asked = [[key(n), key(n + 1000), key((n * 7) % 60)] for n in range(60)]
    found = await asyncio.gather(*(cache.get_many(keys, DIMENSION) for keys in asked))
    for n, (first, none, third) in enumerate(found):
        assert same(first, entry(n))
        assert none is None
        assert same(third, entry((n * 7) % 60))
    assert metric(cache, "seconds_count", operation="read") - reads <= 3


async def test_before_the_first_connection_nobody_waits(valkey, share):
    cache = share(valkey.url, timeout=LIMIT)
    started = time.monotonic()
    assert await cache.get_many([key(1)], DIMENSION) == [None]
    cache.put_many([(key(1), entry(1))])
    assert time.monotonic() - started < LIMIT
    assert metric(cache, "dropped_total", reason="unavailable") == 1
    await reached(cache)


async def test_a_killed_server_costs_little_and_is_found_again(valkey, share):
    cache = share(valkey.url, timeout=LIMIT)
    await reached(cache)
    await written(cache, range(5))
    valkey.stop()
    started = time.monotonic()
    for _ in range(50):
        assert await cache.get_many([key(1)], DIMENSION) == [None]
    assert time.monotonic() - started < 3 * LIMIT + SLACK  # each of 50 waiting in vain would be 5 s
    assert cache.state is not BreakerState.CLOSED
    assert metric(cache, "state", state="closed") == 0
    assert metric(cache, "errors_total", operation="read", reason="connection") == 3
    assert metric(cache, "skipped_total") == 50
    cache.put_many([(key(9), entry(9))])
    assert metric(cache, "dropped_total", reason="unavailable") == 1
    valkey.start()
    await reached(cache)
    assert metric(cache, "state", state="closed") == 1
    await written(cache, range(5))
    assert same((await cache.get_many([key(3)], DIMENSION))[0], entry(3))


async def test_a_frozen_server_holds_each_caller_for_two_reads_at_most_and_then_nobody(valkey, share):
    cache = share(valkey.url, timeout=LIMIT)
    await reached(cache)
    await written(cache, range(50))
    valkey.freeze()

    async def ask(n: int) -> float:
        await asyncio.sleep(n * 0.004)
        started = time.monotonic()
        assert await cache.get_many([key(n)], DIMENSION) == [None]
        return time.monotonic() - started

    with structlog.testing.capture_logs() as logs:
        waits = await asyncio.gather(*(ask(n) for n in range(200)))
    assert max(waits) < 2 * LIMIT + SLACK
    assert np.median(waits[130:]) < 0.01  # the breaker is open
    assert metric(cache, "errors_total", operation="read", reason="timeout") == 3
    assert [each["event"] for each in logs] == ["shared_cache_away"]
    items = [(key(n), entry(n)) for n in range(1000)]
    started = time.monotonic()
    cache.put_many(items)
    assert time.monotonic() - started < SLACK
    valkey.thaw()
    await reached(cache)
    # Answers to what was given up must not be taken for answers to what is asked now.
    found = await asyncio.gather(*(cache.get_many([key(n)], DIMENSION) for n in range(50)))
    assert all(same(got[0], entry(n)) for n, got in enumerate(found))
    assert metric(cache, "corrupt_total") == 0


async def test_a_full_queue_drops_and_counts(valkey, share):
    cache = share(valkey.url, timeout=1.0)
    await reached(cache)
    valkey.freeze()
    many = QUEUE_BYTES // (4 * DIMENSION) + 500
    one = entry(1)
    started = time.monotonic()
    cache.put_many([(key(n), one) for n in range(many)])
    assert time.monotonic() - started < 10 * SLACK  # twenty thousand digests, on a machine that may be busy
    assert metric(cache, "dropped_total", reason="queue_full") == pytest.approx(500, abs=1)
    assert metric(cache, "queued_bytes") <= QUEUE_BYTES
    valkey.thaw()
    await until(lambda: metric(cache, "queued_bytes") == 0)
    await until(
        lambda: metric(cache, "written_total") + sum(
            metric(cache, "dropped_total", reason=reason) for reason in ("failed", "queue_full", "unavailable")
        ) == many
    )  # fmt: skip


async def test_closing_writes_what_waits_and_a_frozen_server_does_not_hold_it(valkey, share):
    cache, other = share(valkey.url), share(valkey.url)
    await asyncio.gather(reached(cache), reached(other))
    cache.put_many([(key(n), entry(n)) for n in range(300)])
    await cache.close()
    assert all(await other.get_many([key(n) for n in range(300)], DIMENSION))
    assert await cache.get_many([key(1)], DIMENSION) == [None]
    cache.put_many([(key(1), entry(1))])
    valkey.freeze()
    other.put_many([(key(n), entry(n)) for n in range(300)])
    waiting = asyncio.create_task(other.get_many([key(1)], DIMENSION))
    await asyncio.sleep(0)
    started = time.monotonic()
    await other.close()
    assert time.monotonic() - started < 3
    assert await waiting == [None]
    assert len(asyncio.all_tasks()) == 1


async def test_a_caller_who_leaves_takes_nobody_along(valkey, share):
    cache = share(valkey.url)
    await reached(cache)
    await written(cache, range(20))
    asking = [asyncio.create_task(cache.get_many([key(n)], DIMENSION)) for n in range(20)]
    await asyncio.sleep(0)
    for task in asking[::2]:
        task.cancel()
    left = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in left[::2])
    assert all(same(each[0], entry(n)) for n, each in list(enumerate(left))[1::2])


async def test_a_wrong_password_is_told_once_and_never_shown(valkey, share):
    valkey.stop()
    valkey.start("--requirepass", "the-right-one")
    with structlog.testing.capture_logs() as logs:
        wrong = share(f"redis://:hunter2@127.0.0.1:{valkey.port}")
        none = share(valkey.url)
        right = share(f"redis://:the-right-one@127.0.0.1:{valkey.port}")
        await reached(right)
        await written(right, [1])
        for refused in (wrong, none):
            await until(
                lambda refused=refused: metric(refused, "errors_total", operation="probe", reason="refused") >= 2
            )
            assert await refused.get_many([key(1)], DIMENSION) == [None]
    assert "hunter2" not in str(logs)
    assert [each["reason"] for each in logs if each["event"] == "shared_cache_away"] == ["refused", "refused"]
    assert same((await right.get_many([key(1)], DIMENSION))[0], entry(1))


async def test_a_server_without_memory_still_answers_reads(valkey, share):
    cache = share(valkey.url)
    await reached(cache)
    await written(cache, range(10))
    with valkey.admin() as admin:
        admin.config_set("maxmemory", 1)
        admin.config_set("maxmemory-policy", "noeviction")
    with structlog.testing.capture_logs() as logs:
        for n in (20, 30):
            cache.put_many([(key(n), entry(n)), (key(n + 1), entry(n + 1))])
            await until(lambda n=n: metric(cache, "dropped_total", reason="failed") == (n - 10) / 5)
    assert [each["event"] for each in logs] == ["shared_cache_refuses_writes"]
    assert metric(cache, "errors_total", operation="write", reason="refused") == 2
    assert all(await cache.get_many([key(n) for n in range(10)], DIMENSION))
    assert cache.state is BreakerState.CLOSED


async def test_values_that_are_not_ours_are_misses(valkey, share):
    cache, secret, other = (share(valkey.url, secret=each) for each in (b"", b"s" * 20, b"t" * 20))
    await asyncio.gather(*map(reached, (cache, secret, other)))
    await written(cache, range(10))
    await written(secret, range(10, 20))
    with valkey.admin() as admin:
        good = admin.get(NAMESPACE + key(1))
        admin.set(NAMESPACE + key(0), good)  # a true value under another's key
        admin.set(NAMESPACE + key(2), good[:-1])
        admin.set(NAMESPACE + key(3), b"")
        admin.set(NAMESPACE + key(4), bytes(len(good)))
        admin.delete(NAMESPACE + key(5))
        admin.lpush(NAMESPACE + key(5), "no string at all")
        admin.set(NAMESPACE + key(6), good + good)
    found = await cache.get_many([key(n) for n in range(20)], DIMENSION)
    assert [n for n, each in enumerate(found) if each is not None] == [1, 7, 8, 9]
    assert metric(cache, "corrupt_total") == 5 + 10
    assert all(await secret.get_many([key(n) for n in range(10, 20)], DIMENSION))
    assert not any(await other.get_many([key(n) for n in range(10, 20)], DIMENSION))
    assert not any(await cache.get_many([key(1)], DIMENSION + 1))
    cache.put_many([(key(2), entry(2))])  # what was computed instead is written over it
    await until(lambda: metric(cache, "written_total") == 11)
    assert same((await cache.get_many([key(2)], DIMENSION))[0], entry(2))


NESTED = b"*1\r\n" * 5000
HOSTILE = {
    "an error": b"-ERR go away\r\n" * 3,
    "half an answer": b"*1\r\n$1500\r\nabc",
    "a size that does not exist": b"*1\r\n$99999999999999999\r\nabc",
    "no size": b"*1\r\n$many\r\nabc\r\n",
    "nested lists": NESTED,
    "a list too long": b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
    "another type": b":17\r\n" * 3,
    "numbers": b"*1\r\n:17\r\n" * 3,
    "no protocol": b"HTTP/1.1 200 OK\r\n\r\n",
    "no text": b"\xff\xfe\x00" * 100 + b"\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("honest", [0, 2], ids=["from the beginning", "after the probe"])
async def test_a_server_that_says_anything_is_only_no_cache(answer, honest):
    """So many reads are answered as they should be; a probe is two."""
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while said := await reader.read(65536):
                writer.write(b"+OK\r\n" * said.count(b"CLIENT"))
                if b"MGET" in said:
                    asked += 1
                    writer.write(b"*1\r\n$-1\r\n" if asked <= honest else answer)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    cache = SharedCache(SharedServer(url), Metrics(), timeout_seconds=LIMIT, ttl_seconds=10)
    cache.start()
    if honest:
        await reached(cache)
    for _ in range(6):
        started = time.monotonic()
        assert await cache.get_many([key(1)], DIMENSION) == [None]
        assert time.monotonic() - started < 2 * LIMIT + SLACK
    failed = sum(metric(cache, "errors_total", operation="read", reason=reason) for reason in Reason)
    assert not honest or failed == 3 or metric(cache, "corrupt_total") > 3
    await cache.close()
    server.close()
    await server.wait_closed()


def test_it_runs_on_uvloop(valkey):
    async def go() -> None:
        cache = SharedCache(SharedServer(valkey.url), Metrics(), timeout_seconds=0.5, ttl_seconds=10)
        cache.start()
        await reached(cache)
        await written(cache, range(500))
        found = await cache.get_many([key(n) for n in range(500)], DIMENSION)
        assert all(same(got, entry(n)) for n, got in enumerate(found))
        valkey.freeze()
        assert await cache.get_many([key(1)], DIMENSION) == [None]
        valkey.thaw()
        assert same((await cache.get_many([key(1)], DIMENSION))[0], entry(1))
        await cache.close()

    uvloop.run(go())


async def test_tls_is_verified(valkey, share, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    valkey.stop()
    plain = valkey.port
    valkey.start(
        "--tls-port", str(plain), "--port", "0", "--tls-cert-file", str(tmp_path / "cert.pem"),
        "--tls-key-file", str(tmp_path / "key.pem"), "--tls-auth-clients", "no",
    )  # fmt: skip
    address = f"rediss://localhost:{plain}"
    trusted, stranger = share(f"{address}?ssl_ca_certs={tmp_path / 'cert.pem'}"), share(address)
    await reached(trusted)
    await written(trusted, range(3))
    assert all(await trusted.get_many([key(n) for n in range(3)], DIMENSION))
    await until(lambda: metric(stranger, "errors_total", operation="probe", reason="connection") >= 1)
    assert stranger.state is not BreakerState.CLOSED


@pytest.mark.parametrize("url", ["http://:hunter2@host", "redis://:hunter2@host:port", "hunter2"])
def test_an_address_that_is_none_is_refused_without_showing_it(url):
    with pytest.raises(CacheUnusable) as refused:
        SharedServer(url)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_settings_never_show_password_or_salt():
    settings = Settings(cache_url="redis://user:hunter2@host:1/2", cache_salt="0123456789abcdef")
    assert "hunter2" not in repr(settings)
    assert "0123456789abcdef" not in f"{settings!r} {settings.model_dump_json()}"
    for wrong in ("hunter2", "http://:hunter2@host", "redis://:hunter2@host:port", "redis://:hunter2@", "unix://"):
        with pytest.raises(ValidationError) as refused:
            Settings(cache_url=wrong)
        assert "hunter2" not in str(refused.value)
    with pytest.raises(ValidationError) as refused:
        Settings(cache_salt="too short")
    assert "too short" not in str(refused.value)
    assert Settings(cache_url="unix:///run/valkey.sock?db=1").cache_url is not None
