"""The training worker as a child process: started with the service, restarted when it ends, never outliving it.

The child holds the reading end of a pipe on its standard input: when this process ends in any way, kill -9 included,
the pipe closes and the worker stops by itself (`--leash`).
"""

import asyncio
import os
import sys
import time
from contextlib import suppress

import structlog

from registry.home import Home

log = structlog.get_logger()

FIRST_DELAY = 1.0
LONGEST_DELAY = 60.0
# A worker that ran this long was healthy; the next restart begins with the short delay again.
HEALTHY_SECONDS = 60.0
STOP_SECONDS = 10.0


class Supervisor:
    """Keeps one worker running.

    Args:
        home: Whose jobs the worker takes.
        command: The program and its arguments; by default the training worker of this environment.
    """

    def __init__(self, home: Home, command: list[str] | None = None) -> None:
        self._command = command or [
            sys.executable, "-m", "training", "worker", "--data-dir", str(home.data_dir), "--leash",
        ]  # fmt: skip
        # A URL may hold a password, so it goes by environment: command lines are for everyone to see.
        self._environment = {**os.environ, "DRIFTLINE_DATABASE_URL": home.database_url}
        if home.artifacts_url is not None:
            self._environment["DRIFTLINE_ARTIFACTS_URL"] = home.artifacts_url
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self.starts = 0

    async def run(self) -> None:
        """Start the worker, again and again with growing pauses, until `stop`."""
        delay = FIRST_DELAY
        while not self._stopping:
            started = time.monotonic()
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.PIPE,
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C in a terminal is for the service, which then stops the worker
                )
            except OSError as error:
                log.error("worker_not_started", error=type(error).__name__)
            else:
                self.starts += 1
                log.info("worker_started", pid=self._process.pid)
                code = await self._process.wait()
                if self._stopping:
                    return
                log.warning("worker_ended", code=code)
            if time.monotonic() - started > HEALTHY_SECONDS:
                delay = FIRST_DELAY
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_DELAY)

    async def stop(self) -> None:
        """Let go of the leash and wait; a worker that does not follow is terminated, then killed."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        for hurry in (process.terminate, process.kill):
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
                return
            with suppress(ProcessLookupError):
                hurry()
        await process.wait()
