"""The parts of one running service, held together; made by app.py and reached by routes as a dependency."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Depends
from starlette.requests import Request

from monitoring.metrics import Metrics
from registry.home import Home
from registry.registry import Registry
from service.advisor import Advisor
from service.auth import Keyring
from service.cache import VectorCache
from service.catalog import Catalog
from service.deadline import given, left
from service.doors import Doors
from service.errors import Problem
from service.policy import Policy
from service.probe_watch import ProbeWatch
from service.rates import Rates
from service.recorder import ServingRecorder
from service.retention import Retention
from service.retrains import Limits
from service.rollout import Rollouts
from service.settings import Settings
from service.shared_cache import SharedCache
from service.snapshot import Target
from service.threads import Threads
from service.watch import Watch

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Service:
    """Everything a route may need."""

    settings: Settings
    home: Home
    registry: Registry
    keyring: Keyring
    cache: VectorCache
    catalog: Catalog
    watch: Watch
    rollouts: Rollouts
    retention: Retention
    probes: ProbeWatch
    advisor: Advisor
    limits: Limits
    policy: Policy
    metrics: Metrics
    recorder: ServingRecorder
    threads: Threads
    shared_cache: SharedCache | None = None
    draining: bool = False
    doors: Doors = field(default_factory=Doors)
    rates: Rates = field(default_factory=Rates)

    async def resolve(self, model: str, request: Request, *, user: str | None = None) -> Target:
        """What a model name means for this request; a version that is not loaded yet is loaded first.

        A name without a version may mean a canary's candidate, for the callers that it answers; `user` is the
        request's field of that name.

        Raises:
            Problem: As `Catalog.resolve` and `Catalog.load`; 504 when loading takes longer than the request may.
        """
        try:
            found = self.catalog.resolve(model)
        except Problem as refused:
            if refused.status != 404:
                raise
            await self.catalog.catch_up()
            found = self.catalog.resolve(model)
        if found is None:
            found = await self.within(request, lambda: self.catalog.load(model))
        canary = self.rollouts.canaries.get(model)
        return found if canary is None else canary.route(found, request, user)

    async def within(self, request: Request, work: Callable[[], Awaitable[T]]) -> T:
        """Wait for work that others may share, for as long as the request may take.

        Raises:
            Problem: 504 when it takes longer; 422 for a deadline header that is no number of milliseconds.
        """
        longest = self.settings.request_seconds
        allowed = min(given(request) or longest, longest)
        try:
            async with asyncio.timeout(left(request, allowed)):
                return await work()
        except TimeoutError:
            self.recorder.refused("deadline")
            raise Problem(504, f"What the request needs was not loaded within {allowed:g} s.") from None

    async def blocking(self, work: Callable[[], T]) -> T:
        """Run a read or write of the registry in a thread."""
        return await self.threads.registry(work)


def service_of(request: Request) -> Service:
    """The service a request reached."""
    service: Service = request.app.state.service
    return service


Running = Annotated[Service, Depends(service_of)]
