"""`driftline serve`: checks that it may listen, then runs uvicorn until it is told to stop."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import structlog
import uvicorn

from monitoring.errors import TracingUnusable
from service import logs
from service.app import create_app
from service.errors import ServiceError
from service.patience import bounded
from service.settings import Settings
from service.shared_server import CacheUnusable
from service.state import Service

log = structlog.get_logger()


class ServeRefused(ServiceError):
    """The service will not start; the message says why and what to do."""


def run(settings: Settings, *, on_listening: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way and return.

    Args:
        on_listening: Called once with the address, such as `http://127.0.0.1:8080`, when requests are taken.

    Raises:
        ServeRefused: No key exists and the address is not loopback, the port cannot be had, or the shared cache or
            tracing is configured in a way that cannot work.
        RegistryError: The registry cannot be opened.
    """
    try:
        app = create_app(settings)
    except (CacheUnusable, TracingUnusable) as error:
        raise ServeRefused(str(error)) from None
    service: Service = app.state.service
    try:
        _check_exposure(settings, service)
        listener = _bind(settings)
    except ServeRefused:
        service.registry.close()
        raise
    logs.configure(settings)
    # One text is tokenised in 40 us in place; handing it to the library's thread pool doubles that under load, and the
    # runtime needs those cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config = uvicorn.Config(
        app,
        http=bounded(settings.patience(), service.recorder.cut),
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
        timeout_keep_alive=75,  # longer than most proxies keep theirs, so that they never write to a closed one
        backlog=2048,
    )
    address = _address(settings, listener)
    with listener:
        server = _Server(config, service, address, on_listening)
        server.run(sockets=[listener])
    if not server.started:
        raise ServeRefused("The service did not start; the log says why.")


class _Server(uvicorn.Server):
    """uvicorn, made to go unready before it stops and to leave with status 0 after a clean stop."""

    def __init__(
        self, config: uvicorn.Config, service: Service, address: str, on_listening: Callable[[str], None] | None
    ) -> None:
        super().__init__(config)
        self._service = service
        self._address = address
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            log.info("listening", address=self._address)
            if self._on_listening is not None:
                self._on_listening(self._address)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn would raise the signal again after a clean stop, and the process would seem to have failed.
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.draining:
            super().handle_exit(sig, frame)  # a second signal does not wait
            return
        self._service.draining = True
        log.info("stopping", signal=signal.Signals(sig).name)
        pause = self._service.settings.drain_seconds
        if pause:
            asyncio.get_running_loop().call_later(pause, self._leave)
        else:
            self._leave()

    def _leave(self) -> None:
        self.should_exit = True


def _check_exposure(settings: Settings, service: Service) -> None:
    if not settings.loopback and not service.keyring.usable:
        raise ServeRefused(
            f"Refusing to listen on {settings.host}: no API key exists, so everyone who reaches this address could use "
            "and change the service.\n"
            "Make a key first:   driftline key create NAME --scope admin\n"
            "or listen locally:  driftline serve --host 127.0.0.1"
        )


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host.strip("[]"), settings.port))
    except OSError as error:
        listener.close()
        where = f"{settings.host}:{settings.port}"
        if error.errno == errno.EADDRINUSE:
            raise ServeRefused(
                f"{where} is already in use by another program. Stop that one, or choose another port with --port."
            ) from error
        raise ServeRefused(f"{where} cannot be listened on: {error.strerror or type(error).__name__}.") from error
    return listener


def _address(settings: Settings, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    host = f"[{settings.host.strip('[]')}]" if ":" in settings.host else settings.host
    return f"http://{host}:{port}"
