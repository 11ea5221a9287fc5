"""The service's threads for blocking work: small pools that cannot starve each other.

One shared pool would let a few slow things (a database that is away, an upload of a million rows) hold up everything
else, the readiness probe included. Work that waits for a pool is cancelled with the request that asked for it.
"""

import asyncio
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """A few threads for one kind of work; called on the event loop."""

    def __init__(self, name: str, workers: int) -> None:
        self.workers = workers
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix=f"driftline-{name}")

    async def __call__(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in one of the threads and wait for it."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: context.run(work, *args, **kwargs)
        )

    def close(self) -> None:
        """Take no more work, drop what has not begun; what runs is not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class Threads:
    """All pools of a service.

    encode: tokenising, heads, searches and large answers. registry: reads and writes of the admin routes. follow: the
    polls of event streams, of which there may be many. upload: parsing datasets, one at a time. load: the catalog's
    looks at the registry, and versions that are loaded. probe: the readiness probe. compare: what a rollout compares.
    """

    def __init__(self) -> None:
        self.encode = Pool("encode", max(2, min(8, os.cpu_count() or 2)))
        self.registry = Pool("registry", 4)
        self.follow = Pool("follow", 2)
        self.upload = Pool("upload", 1)
        self.load = Pool("load", 2)
        self.probe = Pool("probe", 1)
        self.compare = Pool("compare", 1)

    def close(self) -> None:
        """Close every pool."""
        for pool in (self.encode, self.registry, self.follow, self.upload, self.load, self.probe, self.compare):
            pool.close()
