"""Checks of the program itself: Python, libraries against the package's own bounds, and every setting."""

import difflib
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from cli.doctor_check import Check, ok, problem, warning

if TYPE_CHECKING:
    from service.settings import Settings

PREFIX: Final = "DRIFTLINE_"
# Variables that no field of the settings is, with what reads them.
OTHERS: Final = frozenset({"DRIFTLINE_WORKER_ID", "DRIFTLINE_MODELS", "DRIFTLINE_CRASH_AT", "DRIFTLINE_BACKBONE"})
_SAME_MODULE: Final = ("onnxruntime", "onnxruntime-gpu")


def python() -> Iterator[Check]:
    """The interpreter against `requires-python`."""
    wanted = str(importlib.metadata.metadata("driftline")["Requires-Python"])
    found = platform.python_version()
    seen = f"{found}, {platform.system()} {platform.machine()}"
    if SpecifierSet(wanted).contains(found, prereleases=True):
        yield ok("python", seen)
    else:
        yield problem("python", f"{seen}; Driftline needs {wanted}", f"install Python {wanted}")


def libraries() -> Iterator[Check]:
    """Every library against the bounds of the package; those of an extra only where they are installed."""
    version = importlib.metadata.version("driftline")
    missing, outside = [], []
    wanted = list(_requirements())
    for requirement, extra in wanted:
        found = _installed(requirement.name)
        if found is None:
            if extra is None:
                missing.append(requirement.name)
        elif not requirement.specifier.contains(found, prereleases=True):
            outside.append(f"{requirement.name} {found} (wanted {requirement.specifier})")
    extras = [
        extra
        for extra in sorted({extra for _, extra in wanted if extra is not None})
        if all(_installed(requirement.name) for requirement, its in wanted if its == extra)
    ]
    if missing:
        yield problem("libraries", f"missing: {', '.join(missing)}", "pip install driftline, with its constraints file")
    if outside:
        yield problem("libraries", f"outside of their bounds: {', '.join(outside)}", "install the versions named")
    both = [name for name in _SAME_MODULE if _installed(name)]
    if len(both) == 2:
        yield problem("libraries", f"{both[0]} and {both[1]} are both installed", "keep one: they are one module")
    if not both:
        yield problem("libraries", "no ONNX Runtime is installed", "pip install 'driftline[cpu]' or 'driftline[gpu]'")
    if not missing and not outside:
        yield ok("libraries", f"driftline {version}; extras: {', '.join(extras) or 'none'}")


def _requirements() -> Iterator[tuple[Requirement, str | None]]:
    """What the package wants here, with the extra that wants it."""
    for line in importlib.metadata.requires("driftline") or ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement, None
            continue
        for extra in importlib.metadata.metadata("driftline").get_all("Provides-Extra") or ():
            itself = canonicalize_name(requirement.name) == "driftline"
            if not itself and requirement.marker.evaluate({"extra": extra}):
                yield requirement, extra


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def unknown_variables(environment: Mapping[str, str]) -> Iterator[Check]:
    """Variables that look like settings and are none: misspelt ones change nothing, silently."""
    from service.settings import Settings

    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | OTHERS
    folded = {name.upper() for name in environment}
    for name in sorted(environment):
        if not name.upper().startswith(PREFIX) or name.upper() in known:
            continue
        bare = name.upper().removeprefix(PREFIX)
        near = difflib.get_close_matches(bare, sorted(each.removeprefix(PREFIX) for each in known - folded), n=1)
        yield warning(
            "settings",
            f"{name} is set, and nothing reads it",
            f"perhaps {PREFIX}{near[0]} is meant" if near else "take it away; docs/settings.md lists the settings",
        )
    if "DRIFTLINE_CRASH_AT" in environment:
        yield warning("settings", "DRIFTLINE_CRASH_AT is set: the worker kills itself", "take it away; it is for tests")


def settings(found: "Settings | None", faults: list[str], environment: Mapping[str, str]) -> Iterator[Check]:
    """The values of all settings, and pairs of them that contradict each other."""
    doubts = list(unknown_variables(environment))
    doubts.extend(problem("settings", fault, "docs/settings.md says what is allowed") for fault in faults)
    if found is not None:
        doubts.extend(_contradictions(found))
    yield from doubts
    if not doubts:
        count = sum(name.upper().startswith(PREFIX) for name in environment)
        yield ok("settings", f"{count} variables set, all of them known")


def _contradictions(found: "Settings") -> Iterator[Check]:
    cores = os.cpu_count() or 1
    if found.threads is not None and found.threads > cores:
        yield warning("settings", f"DRIFTLINE_THREADS is {found.threads} and the machine has {cores} cores", "lower it")
    if found.max_request_tokens > found.queue_tokens:
        seen = f"a request may have {found.max_request_tokens} tokens and the queue holds {found.queue_tokens}"
        yield warning("settings", seen, "raise DRIFTLINE_QUEUE_TOKENS or lower DRIFTLINE_MAX_REQUEST_TOKENS")
    if found.cache_url is not None and found.cache_salt is None:
        seen = "DRIFTLINE_CACHE_URL is set without DRIFTLINE_CACHE_SALT: who reaches the server can look texts up"
        yield warning("settings", seen, "set a salt of 16 characters or more, the same for all services")
    if found.cache_url is None and found.cache_salt is not None:
        yield warning("settings", "DRIFTLINE_CACHE_SALT is set without DRIFTLINE_CACHE_URL", "set both or none")
    if found.drain_seconds and found.drain_seconds >= found.shutdown_seconds:
        seen = "DRIFTLINE_DRAIN_SECONDS is no shorter than DRIFTLINE_SHUTDOWN_SECONDS"
        yield warning("settings", seen, "the grace time of whoever stops the service must hold both")
    if found.retrain_budget == 0 and found.drift_policy == "retrain":
        seen = "DRIFTLINE_DRIFT_POLICY is retrain and DRIFTLINE_RETRAIN_BUDGET is 0: it will never start one"
        yield warning("settings", seen, "raise the budget or turn the policy off")
