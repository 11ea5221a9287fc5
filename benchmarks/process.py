"""What a running server costs, read from /proc: resident memory and processor time, thread by thread (Linux only)."""

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

_TICK = os.sysconf("SC_CLK_TCK")
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of some processes in bytes.

    Attributes:
        resident: Sum of their RSS: every page they map, shared ones in full.
        proportional: Sum of their PSS: shared pages divided by how many processes map them.
    """

    resident: int
    proportional: int


def server_pid(url: str) -> int:
    """The process that was started with `--port` and the port of this URL.

    Raises:
        LookupError: There is none.
    """
    port = str(urlsplit(url).port)
    for pid in _pids():
        arguments = _arguments(pid)
        if ("--port", port) in pairwise(arguments):
            return pid
    raise LookupError(f"no process was started with --port {port}")


def family(pid: int) -> list[int]:
    """The process and its descendants, the training worker left out: it embeds nothing."""
    parents = {each: _parent(each) for each in _pids()}
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known and not _is_worker(child)]
    return found


def memory(pid: int) -> Memory:
    """Memory of a server: the process and its descendants without the training worker."""
    resident = proportional = 0
    for each in family(pid):
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "Rss":
                resident += int(rest.split()[0]) * 1024
            elif name == "Pss":
                proportional += int(rest.split()[0]) * 1024
    return Memory(resident, proportional)


def thread_seconds(pid: int) -> dict[int, tuple[str, float]]:
    """Processor time of every thread of a process so far: thread id -> (name the system has for it, seconds)."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            stat = (task / "stat").read_text()
        except OSError:  # the thread ended meanwhile
            continue
        name, _, rest = stat[stat.index("(") + 1 :].rpartition(")")
        fields = rest.split()
        found[int(task.name)] = (name, (int(fields[11]) + int(fields[12])) / _TICK)
    return found


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # ended meanwhile, or another user's
        return []


def _is_worker(pid: int) -> bool:
    return "training" in _arguments(pid)


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])
