"""A real Valkey or Redis server that tests start, stop, freeze and spoil."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from monitoring.metrics import Metrics
from service.shared_cache import SharedCache
from service.shared_server import SharedServer


class Valkey:
    """A server on a free port of loopback, in a folder of its own, with nothing on disk."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program = program
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.options: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *options: str) -> None:
        self.options = list(options) or self.options
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.folder]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen([*map(str, command), *self.options], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def admin(self, **options: Any) -> redis.Redis:
        return redis.Redis(port=self.port, **options)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A running server."""
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        pytest.skip("neither valkey-server nor redis-server is installed")
    server = Valkey(program, tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def share() -> AsyncIterator[Callable[..., SharedCache]]:
    """Makes shared caches over a server's address; each has metrics of its own and is closed at the end."""
    made: list[SharedCache] = []

    def make(url: str, *, timeout: float = 2.0, ttl: int = 1000, secret: bytes = b"") -> SharedCache:
        cache = SharedCache(SharedServer(url), Metrics(), timeout_seconds=timeout, ttl_seconds=ttl, secret=secret)
        cache.start()
        made.append(cache)
        return cache

    yield make
    for cache in made:
        await cache.close()
