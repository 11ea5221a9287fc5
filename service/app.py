"""The composition root: what a service consists of, and the order in which a request meets it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from encoder.encoder import Encoder
from monitoring.metrics import Metrics
from monitoring.monitor_settings import MonitorSettings
from registry.errors import RegistryError
from service.advisor import Advisor
from service.api import (
    adapters,
    advice,
    alerts,
    audit,
    cohere,
    datasets,
    drift,
    drift_items,
    health,
    jobs,
    keys,
    models,
    reports,
    rerank,
    rollouts,
    tei,
    vectors,
)
from service.auth import Keyring
from service.cache import VectorCache
from service.catalog import Catalog
from service.document import allowed, openapi
from service.edge import Answers, Edge, route_of
from service.embedder import Embedder
from service.errors import Problem, problem_of, validation_problem
from service.limits import BodyLimit, LocalOnly
from service.policy import Policy
from service.probe_watch import ProbeWatch
from service.recorder import ServingRecorder
from service.retention import Retention
from service.retrains import Limits
from service.rollout import Rollouts
from service.settings import Settings
from service.shared_cache import SharedCache
from service.shared_server import SharedServer
from service.snapshot import Snapshot
from service.state import Service
from service.supervise import Supervisor
from service.tei_errors import FlatErrors
from service.threads import Threads
from service.tracing import Traced, close_tracing, service_tracing
from service.version import VERSION
from service.watch import Watch

log = structlog.get_logger()

# When a key was last used is written this often, not with every request.
NOTE_USES_SECONDS = 60.0

DESCRIPTION = (
    "Text embeddings specialised to your domain: served fast, watched for drift, refitted on demand. "
    "The vector routes follow OpenAI's contract; every refusal is an RFC 9457 problem with OpenAI's `error` member."
)


class _Application(FastAPI):
    """FastAPI behind our own layers, which stand outside of the framework's: the hot path meets none of those."""

    outermost: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self.outermost(scope, receive, send)

    async def framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Routes, dependencies and error handlers of FastAPI."""
        await super().__call__(scope, receive, send)


def create_app(settings: Settings) -> FastAPI:
    """Build the service; its model is loaded in the background once the application starts.

    Raises:
        RegistryError: The registry cannot be opened.
        CacheUnusable: A shared cache is configured that cannot be used.
        TracingUnusable: Traces are asked for that cannot be sent.
    """
    tracing = service_tracing(settings)
    service = build(settings)
    app = _Application(
        title="Driftline",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,  # the page would load scripts from elsewhere; the document is at /openapi.json
        redoc_url=None,
        # Its own telemetry would tell paths, and with an error its message: it stays off whatever the variables say.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service = service
    app.state.tracing = tracing
    app.state.probe = health.Probe()
    for module in (
        vectors,
        tei,
        rerank,
        cohere,
        models,
        health,
        datasets,
        jobs,
        adapters,
        reports,
        rollouts,
        drift,
        drift_items,
        advice,
        alerts,
        keys,
        audit,
    ):
        app.include_router(module.router)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_middleware(Answers)  # within the framework, whose own answer to an error would repeat its message
    hot = Answers(vectors.HotPath(app.framework))
    bounded = BodyLimit(hot, limit=settings.max_body_bytes, upload_limit=settings.max_upload_bytes)
    local = LocalOnly(bounded, is_open=lambda: service.keyring.open, allowed=settings.allowed_hosts)
    app.outermost = Edge(FlatErrors(local), recorder=service.recorder)
    if tracing is not None:
        app.outermost = Traced(app.outermost, tracing)
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return app


def build(settings: Settings) -> Service:
    """The parts of a service, wired; no thread runs and no model is loaded yet.

    Raises:
        RegistryError: The registry cannot be opened.
        CacheUnusable: A shared cache is configured that cannot be used.
    """
    metrics = Metrics()
    secret = b"" if settings.cache_salt is None else settings.cache_salt.get_secret_value().encode()
    shared = None if settings.cache_url is None else _shared_cache(settings, settings.cache_url, metrics, secret)
    home = settings.home()
    registry = home.registry()
    recorder = ServingRecorder(metrics)
    cache = VectorCache(settings.cache_bytes)
    keyring = Keyring(loopback=settings.loopback)
    keyring.load(registry)
    monitoring = MonitorSettings(
        window=settings.drift_window,
        arl=settings.drift_arl,
        min_novelty_ratio=settings.drift_min_novelty_ratio,
        min_tv=settings.drift_min_tv,
        min_auc=settings.drift_min_auc,
        mode=settings.drift_mode,
    )
    threads = Threads()
    watch = Watch(
        registry,
        metrics,
        monitoring,
        limit=settings.drift_queue,
        rate=settings.drift_rate,
        per_request=settings.drift_per_request,
        per_session=settings.drift_per_session,
        keep=settings.drift_readings,
    )

    def open_encoder(digest: str) -> Encoder:
        return Encoder.open(
            digest,
            registry.fetch,
            provider=settings.provider,
            precision=settings.precision,
            threads=settings.threads,
            streams=settings.streams,
        )

    def make_embedder(encoder: Encoder) -> Embedder:
        return Embedder(
            encoder,
            cache,
            recorder,
            threads.encode,
            batch_tokens=settings.max_batch_tokens,
            queue_tokens=settings.queue_tokens,
            queue_seconds=settings.queue_seconds,
            max_request_tokens=settings.max_request_tokens,
            deadline_seconds=settings.request_seconds,
            shared=shared,
            secret=secret,
        )

    def changed(before: Snapshot, snapshot: Snapshot) -> None:
        recorder.catalog(before, snapshot, VERSION)
        views = snapshot.adapters
        watch.follow(
            {name: view.live for name, view in views.items() if view.live is not None},
            {name: view.serving for name, view in views.items() if view.asleep and view.serving is not None},
        )
        candidates.follow(snapshot)
        probes.show(snapshot)

    catalog = Catalog(
        registry,
        keyring,
        threads.load,
        open_encoder=open_encoder,
        make_embedder=make_embedder,
        pinned_versions=settings.pinned_versions,
        resident_adapters=settings.resident_adapters,
        on_change=changed,
    )
    candidates = Rollouts(
        registry,
        catalog,
        metrics,
        threads,
        rate=settings.rollout_rate,
        limit=settings.rollout_queue,
        store_seconds=2 * settings.poll_seconds,
    )
    retention = Retention(registry, keyring, threads, keep=settings.retained_texts)
    probes = ProbeWatch(registry, metrics, lambda: catalog.snapshot, threads.load, seconds=settings.drift_probe_seconds)
    advisor = Advisor(watch, probes, lambda: catalog.snapshot, monitoring)
    limits = Limits(
        timedelta(seconds=settings.retrain_cooldown_seconds), settings.retrain_budget, settings.alerts_need_effect
    )
    policy = Policy(registry, advisor, metrics, threads.registry, limits, on=settings.drift_policy == "retrain")
    built = Service(
        settings, home, registry, keyring, cache, catalog, watch, candidates, retention, probes, advisor, limits,
        policy, metrics, recorder, threads, shared,
    )  # fmt: skip
    built.rates.reconcile(registry)
    return built


def _shared_cache(settings: Settings, url: SecretStr, metrics: Metrics, secret: bytes) -> SharedCache:
    return SharedCache(
        SharedServer(url.get_secret_value()),
        metrics,
        timeout_seconds=settings.cache_timeout_ms / 1000,
        ttl_seconds=settings.cache_ttl_seconds,
        secret=secret,
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    service.watch.start()
    async with AsyncExitStack() as stack:
        # Undone in reverse: first the worker, then the poll, the runtime, the shared cache (once it has written what it
        # still holds), the monitors (which store their state in the registry), the registry, and what was traced.
        if app.state.tracing is not None:
            stack.push_async_callback(close_tracing, app.state.tracing)
        stack.callback(service.registry.close)
        stack.callback(service.threads.close)
        stack.push_async_callback(asyncio.to_thread, service.watch.stop)
        if service.shared_cache is not None:
            service.shared_cache.start()
            stack.push_async_callback(service.shared_cache.close)
        stack.push_async_callback(asyncio.to_thread, service.catalog.stop)
        await stack.enter_async_context(_background(service.catalog.follow(service.settings.poll_seconds)))
        stack.push_async_callback(service.rollouts.close)
        await stack.enter_async_context(_background(service.rollouts.run()))
        stack.push_async_callback(service.retention.close)
        await stack.enter_async_context(_background(service.retention.run()))
        await stack.enter_async_context(_background(service.probes.run()))
        await stack.enter_async_context(_background(service.policy.run()))
        stack.push_async_callback(_note_uses, service)
        await stack.enter_async_context(_background(_note_uses_for_ever(service)))
        if service.settings.worker:
            supervisor = Supervisor(service.home)
            await stack.enter_async_context(_background(supervisor.run()))
            stack.push_async_callback(supervisor.stop)
        log.info("service_started", version=VERSION, worker=service.settings.worker)
        yield
        service.draining = True
    log.info("service_stopped")


@asynccontextmanager
async def _background(work: Any) -> AsyncIterator[None]:
    """Run a coroutine beside the service and cancel it at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _note_uses(service: Service) -> None:
    try:
        await service.blocking(lambda: service.keyring.note_uses(service.registry))
        await service.blocking(lambda: service.rates.reconcile(service.registry))
    except RegistryError as error:
        log.warning("key_uses_not_noted", error=type(error).__name__)


async def _note_uses_for_ever(service: Service) -> None:
    while True:
        await asyncio.sleep(NOTE_USES_SECONDS)
        await _note_uses(service)


async def _refused(request: Request, error: Exception) -> Response:
    problem = problem_of(error) or Problem(500, "The server failed.")
    if problem.status == 405 and (methods := allowed(request.app, route_of(request.scope))):
        problem.headers = {"Allow": methods}
    return problem.response()


async def _invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    return validation_problem(error.errors()).response()
