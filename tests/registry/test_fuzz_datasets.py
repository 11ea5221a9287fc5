"""Uploads made to break a parser: rows or a refusal that repeats nothing, in bounded time and memory.

Each runs in a process of its own with a limit of memory (fuzz_datasets.py). DRIFTLINE_EXAMPLES=20000 makes it a long
run. Bad rows that people write are in test_rows.py.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz_datasets.py")
CASES = int(os.environ.get("DRIFTLINE_EXAMPLES", "1500"))


def run(*arguments: str, seconds: float = 60) -> str:
    done = subprocess.run([sys.executable, FUZZ, *arguments], capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_damaged_uploads_are_rows_or_a_refusal(format: str) -> None:
    said = run("damaged", format, "0", str(CASES), seconds=60 + CASES / 20)
    refused, taken = (int(n) for n in re.findall(r"\d+", said))
    assert refused + taken == CASES
    assert min(refused, taken) > CASES // 50  # both happen


def test_large_malicious_uploads_are_refused_in_bounded_time_and_memory() -> None:
    said = run("bombs", seconds=120)
    assert "taken" not in said, said
    assert said.count("refused") >= 18
