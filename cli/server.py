"""A service as a child process on a free loopback port, for the demo and the benchmarks."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2


class ServiceError(RuntimeError):
    """The service ended or did not become ready; the message says where its log is."""


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_service(
    data_dir: Path,
    *,
    worker: bool = True,
    settings: Mapping[str, str] | None = None,
    patience: float = 60.0,
) -> Iterator[str]:
    """Start `driftline serve` on a free port and yield its base URL once it is ready; stop it on the way out.

    `settings` are environment variables (`DRIFTLINE_…`). `patience` is in seconds. The service's log goes to
    `service.log` in the data directory. Raises ServiceError.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "cli",
        "serve",
        "--data-dir",
        str(data_dir),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    if not worker:
        command.append("--no-worker")
    log_path = data_dir / "service.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(settings or {})})
    try:
        _wait_until_ready(url, process, patience, log_path)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", patience: float, log_path: Path) -> None:
    deadline = time.monotonic() + patience
    with httpx2.Client(base_url=url, timeout=5) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServiceError(f"the service ended with status {process.returncode}; its log is {log_path}")
            try:
                if client.get("/readyz").status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.1)
    raise ServiceError(f"the service was not ready after {patience:.0f} s; its log is {log_path}")
