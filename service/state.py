"""The parts of one running service, held together; made by app.py and reached by routes as a dependency."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends
from starlette.requests import Request

from monitoring.metrics import Metrics
from registry.home import Home
from registry.registry import Registry
from service.auth import Keyring
from service.cache import VectorCache
from service.catalog import Catalog
from service.errors import Problem
from service.recorder import ServingRecorder
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
    metrics: Metrics
    recorder: ServingRecorder
    threads: Threads
    shared_cache: SharedCache | None = None
    draining: bool = False

    async def resolve(self, model: str) -> Target:
        """What a model name means for this request; a version that is not loaded yet is loaded first."""
        try:
            found = self.catalog.resolve(model)
        except Problem as refused:
            if refused.status != 404:
                raise
            await self.catalog.catch_up()
            found = self.catalog.resolve(model)
        return found or await self.catalog.load(model)

    async def blocking(self, work: Callable[[], T]) -> T:
        """Run a read or write of the registry in a thread."""
        return await self.threads.registry(work)


def service_of(request: Request) -> Service:
    """The service a request reached."""
    service: Service = request.app.state.service
    return service


Running = Annotated[Service, Depends(service_of)]
