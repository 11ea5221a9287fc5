"""The worker's side of a fit: starts its process or processes, passes progress on, ends them on cancel or time-out."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from training.errors import FitFailed

_TICK_S = 0.2
# Beyond the fit's own time budget: loading torch, one last measurement, writing.
GRACE_S = 60.0

HEAD_FIT = ("training.fit_child",)
LORA_FIT = ("training.lora_child", "fit")
LORA_PROOF = ("training.lora_child", "prove")

Progress = Callable[[Mapping[str, Any]], None]


class FitProcess:
    """One fit in a process group of its own, on a leash: it dies with this process, however this process dies.

    Args:
        folder: The job's work folder, given to the program as its last argument.
        program: Module to run, and arguments before the folder.
        processes: How many run the program together, started by torchrun where they are several.
    """

    def __init__(self, folder: Path, program: Sequence[str] = HEAD_FIT, processes: int = 1) -> None:
        launcher: list[str] = []
        if processes > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        environment = os.environ | {
            # As -P: nothing is imported from the folder that a process happens to run in.
            "PYTHONSAFEPATH": "1",
            # Threads that wait in a busy loop would take the cores from a service on the same machine.
            "OMP_WAIT_POLICY": "passive",
            "PYTHONUNBUFFERED": "1",
        }
        self._log = (folder / "fit.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-P", *launcher, "-m", *program, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        output = self._process.stdout
        if output is None:
            raise RuntimeError("the fit's output is not connected")
        self._reader = threading.Thread(target=self._read, args=(output,), name="fit-output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id, which is the id of its group as well."""
        return self._process.pid

    def wait(self, progress: Progress, tick: Callable[[], None], time_budget_s: float) -> None:
        """Wait for the end of the fit.

        Args:
            progress: Called with each progress message of the child.
            tick: Called several times a second; an exception out of it (a cancelled job) ends the child.
            time_budget_s: The fit's own budget; the child is ended a minute after it.

        Raises:
            FitFailed: The child failed, died or overran its time.
        """
        deadline = time.monotonic() + time_budget_s + GRACE_S
        failure: str | None = None
        try:
            while True:
                ended = self._process.poll() is not None
                if ended:
                    self._reader.join(timeout=5)
                failure = self._drain(progress) or failure
                if ended:
                    break
                tick()
                if time.monotonic() > deadline:
                    raise FitFailed(
                        f"the fit went on for more than {time_budget_s + GRACE_S:.0f} s and was ended; "
                        "raise time_budget_s or lower steps or batch_size in the recipe"
                    )
        finally:
            self.kill()
        if failure is not None:
            raise FitFailed(failure)
        code = self._process.returncode
        if code == -signal.SIGKILL:
            raise FitFailed("the fit was killed by the system, most likely for want of memory; lower batch_size")
        if code != 0:
            raise FitFailed(f"the fit ended with code {code}; the worker's log has the details, queue it again")

    def kill(self) -> None:
        """End the child and everything it started, at once; nothing happens when it has ended."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        # Processes that torchrun put into groups of their own hold the leash as well, and go by it.
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._reader.join(timeout=5)
        for stream in (self._process.stdout, self._log):
            if stream is not None:
                stream.close()

    def _drain(self, progress: Progress) -> str | None:
        """Pass on what has come, after waiting a tick for it; the failure the child told, if any."""
        failure = None
        block = self._process.poll() is None
        while True:
            try:
                line = self._lines.get(timeout=_TICK_S if block else 0.0)
            except queue.Empty:
                return failure
            block = False
            message = json.loads(line)
            if "failed" in message:
                failure = str(message["failed"])
            else:
                progress(message)

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            if line.strip():
                self._lines.put(line)
