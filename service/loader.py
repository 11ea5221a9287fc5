"""Opens versions: an adapter that reproduces its probes, and the reference its traffic is held against."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import structlog

from encoder.adapters import Head
from encoder.encoder import Encoder
from encoder.errors import EncoderError
from encoder.lora import Lora
from encoder.lora_manifest import LoraManifest
from monitoring.errors import MonitoringError
from monitoring.reference import Reference
from registry.errors import RegistryError
from registry.registry import Registry
from registry.versions import Version
from service.errors import Problem
from service.snapshot import LoadedVersion
from service.threads import Pool

log = structlog.get_logger()

T = TypeVar("T")

LOAD_ERRORS = (EncoderError, RegistryError, MonitoringError, OSError, ValueError, KeyError)


class Loader:
    """Loads versions from the registry's artifacts. Methods that are not coroutines block and may run in any thread.

    Args:
        pool: Threads that load.
        encoder_of: The loaded encoder of a backbone digest, or None.
    """

    def __init__(self, registry: Registry, pool: Pool, encoder_of: Callable[[str], Encoder | None]) -> None:
        self._registry = registry
        self._pool = pool
        self._encoder_of = encoder_of
        self._under_way: dict[object, asyncio.Task[Any]] = {}

    def adapter(self, record: Version) -> Head | Lora:
        """A version's adapter, proven on its probes; raises one of LOAD_ERRORS."""
        fetch = self._registry.fetch
        adapter = (
            Lora.open(record.digest, fetch) if record.kind == LoraManifest.KIND else Head.open(record.digest, fetch)
        )
        if adapter.manifest.backbone != record.backbone:
            raise ValueError("its manifest names another backbone than the registry")
        if isinstance(adapter, Lora):
            encoder = self._encoder_of(record.backbone)
            if encoder is None:
                raise ValueError("its backbone is not loaded")
            encoder.prove(adapter)
        return adapter

    def reference(self, record: Version, dimension: int) -> Reference | None:
        """A version's reference, None when it has none; raises one of LOAD_ERRORS."""
        if record.reference is None:
            return None
        reference = Reference.from_bytes(self._registry.fetch(record.reference))
        if reference.dimension != dimension:
            raise ValueError("its reference has another dimension than its adapter")
        return reference

    def version(self, record: Version, *, reference: bool) -> LoadedVersion:
        """A version, with its reference if asked for.

        Raises:
            Problem: 409 when it cannot be loaded.
        """
        try:
            adapter = self.adapter(record)
            found = self.reference(record, adapter.manifest.dimension) if reference else None
        except LOAD_ERRORS as error:
            raise unusable(record, error) from error
        return LoadedVersion(record, adapter, found)

    async def once(self, key: object, work: Callable[[], T]) -> T:
        """Run `work` in a thread; who asks for the same key meanwhile shares its result. Other keys do not wait."""
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(self._pool(work))
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        result: T = await asyncio.shield(task)
        return result


def unusable(record: Version, error: Exception) -> Problem:
    """409 for a version that cannot be loaded."""
    log.warning("version_unusable", version=record.name, error=str(error))
    return Problem(409, f"The version {record.name} cannot be loaded: {error}", code="version_unusable")
