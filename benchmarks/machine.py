"""What every benchmark prints first: the machine, the versions, the threads, the lengths of its texts."""

import csv
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import httpx2

PACKAGES = ("onnxruntime", "onnxruntime-ep-openvino", "torch", "numpy", "fastapi", "uvicorn", "faiss-cpu")


def cpu_name() -> str:
    """Model name of the processor, where the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe() -> str:
    """One paragraph: processor, cores, Python and library versions."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0))
    return f"{cpu_name()}, {cores} cores, Python {platform.python_version()}; {', '.join(versions)}"


def read_texts(path: Path) -> list[str]:
    """The texts of a CSV or JSONL file with a `text` column, in order, repeats left out."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            texts = [row["text"] for row in csv.DictReader(file)]
    else:
        texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines() if line]
    return list(dict.fromkeys(texts))


def lengths(counts: Sequence[int]) -> str:
    """Token counts in one line: mean, median, 95th percentile, largest."""
    ordered = sorted(counts)
    return (
        f"mean {sum(ordered) / len(ordered):.1f}, median {ordered[len(ordered) // 2]}, "
        f"p95 {ordered[int(len(ordered) * 0.95)]}, max {ordered[-1]}"
    )


def served(url: str) -> str:
    """What a running service computes with, by its `/info`: provider, precision, threads and streams."""
    backbone = httpx2.get(f"{url}/info", timeout=10).json()["backbones"][0]
    shown = [f"{backbone[name]} {name}" for name in ("threads", "streams") if name in backbone]
    return f"service: {backbone['provider']} {backbone['precision']}, {', '.join(shown)}"
