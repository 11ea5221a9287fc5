"""What this machine gives the process: cores, within the limits of its container; number formats; memory."""

import contextlib
import ctypes
import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def cores() -> int:
    """Cores this process may use: those it may run on, or fewer where a container's CPU quota is less (rounded up)."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(_CGROUPS, _OWN_CGROUPS)
    return usable if quota is None else max(1, min(usable, math.ceil(quota)))


def cpu_quota(root: Path, own: Path) -> float | None:
    """CPU seconds a second that control groups (version 2 or 1) leave this process, None where nothing limits it.

    Args:
        root: Where control groups are mounted.
        own: The file that says which groups the process is in, as /proc/self/cgroup.
    """
    found = []
    for mount, group in _groups(root, own):
        # A limit on any ancestor holds as well. Inside a container the own group may be mounted as the root itself.
        steps = [part for part in group.split("/") if part and part != ".."]
        folders = [mount.joinpath(*steps[:depth]) for depth in range(len(steps) + 1)]
        found += [quota for quota in map(_quota, folders) if quota is not None]
    return min(found, default=None)


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; elsewhere bf16 would be emulated, slow and no gain."""
    return bool({"avx512_bf16", "amx_bf16"} & _cpu_flags())


def release_memory() -> None:
    """Give memory that was freed back to the system, where the C library keeps it (glibc); loading leaves much."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _groups(root: Path, own: Path) -> list[tuple[Path, str]]:
    """Mount point and path of each group that may limit the process."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        number, _, rest = line.partition(":")
        names, _, group = rest.partition(":")
        if number == "0" and not names:
            groups += [(root, group), (root / "unified", group)]
        elif "cpu" in names.split(","):
            groups.append((root / "cpu", group))
    return groups


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():  # version 2: "quota period" or "max period", microseconds
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        limit = float("inf") if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return limit if 0 < limit < float("inf") else None  # version 1 says -1 for no limit


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return set()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return set(line.partition(":")[2].split())
