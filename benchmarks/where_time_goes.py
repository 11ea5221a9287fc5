"""Where a loaded service spends its processor time: `python benchmarks/where_time_goes.py --texts FILE`.

Two views of the same load. Seconds of each thread from /proc, by request, need nothing installed. With `py-spy` (pip
install py-spy; it needs the right to trace, as root or with ptrace_scope 0) threads get their names, and samples show
which functions the time is under: a function's share counts samples with it anywhere on the stack, so shares nest and
don't add up. `wrk` shares the cores and is listed too.
"""

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from load import BodyFile, Outcome, drive, embedding_body
from machine import describe, lengths, read_texts, served
from process import memory, server_pid, thread_seconds
from texts import TICKETS, batches, default_model, mixed_lengths

from cli.server import running_service
from registry.home import Home

HERTZ = 99
# A line of a collapsed stack is `frame;frame;… count`, a frame `name (file:line)`, the thread the first one.
_FRAME = re.compile(r"(?P<name>.+) \((?P<file>[^():]+)(?::\d+)?\)$")
# Frames up to this one are how the service was started; a sample that ends here is the loop itself: sockets, timers.
_LOOP = "`Runner.run` asyncio/runners.py"
_ROOT = str(Path(__file__).parent.parent)


@dataclass(frozen=True, slots=True)
class Spent:
    """Processor seconds in one window: by thread id with the system's name of the thread, and of `wrk`."""

    threads: dict[int, tuple[str, float]]
    load: float
    seconds: float
    outcome: Outcome


def spy() -> str | None:
    """The py-spy program, on the PATH or beside this Python."""
    return shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))


def thread_names(program: str | None, pid: int) -> dict[int, str]:
    """Python's names of a process's threads by thread id; empty without py-spy or the right to trace."""
    if program is None:
        return {}
    dumped = subprocess.run([program, "dump", "--json", "--pid", str(pid)], capture_output=True, check=False)
    if dumped.returncode != 0:
        print(f"py-spy cannot look into the service: {dumped.stderr.decode(errors='replace').strip()[:200]}")
        return {}
    return {each["os_thread_id"]: each["thread_name"] for each in json.loads(dumped.stdout)}


def spend(url: str, pid: int, bodies: BodyFile, connections: int, seconds: float) -> Spent:
    """Run one window of load and take the difference of every thread's processor time."""
    drive(url, bodies, connections, 2, warm_up=0)
    before, children, start = thread_seconds(pid), _children(), time.perf_counter()
    outcome = drive(url, bodies, connections, seconds, warm_up=0)
    elapsed = time.perf_counter() - start
    after = thread_seconds(pid)
    used = {tid: (name, total - before.get(tid, ("", 0.0))[1]) for tid, (name, total) in after.items()}
    return Spent(used, _children() - children, elapsed, outcome)


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def show_threads(spent: Spent, names: dict[int, str], pid: int) -> None:
    """The table of processor time; threads of one kind are added up, what took under a thousandth is left out."""
    kinds: Counter[str] = Counter()
    members: Counter[str] = Counter()
    for tid, (system, seconds) in spent.threads.items():
        name = names.get(tid, "")
        kind = "event loop (main thread)" if tid == pid else re.sub(r"[-_ ]*\d+.*$", "", name) or f"native: {system}"
        kinds[kind] += seconds
        members[kind] += 1
    total = sum(kinds.values()) + spent.load
    count = spent.outcome.served
    print(f"{count} requests in {spent.seconds:.1f} s, {total / spent.seconds:.2f} cores busy")
    print("| threads | how many | cores | ms/request | share |\n| --- | ---: | ---: | ---: | ---: |")
    for kind, seconds in kinds.most_common():
        if seconds >= total / 1000:
            row = f"{members[kind]} | {seconds / spent.seconds:.2f} | {seconds / count * 1e3:.3f}"
            print(f"| {kind} | {row} | {seconds / total:.1%} |")
    row = f"1 | {spent.load / spent.seconds:.2f} | {spent.load / count * 1e3:.3f}"
    print(f"| wrk, the load | {row} | {spent.load / total:.1%} |")


def sampled(program: str, pid: int, url: str, bodies: BodyFile, connections: int, seconds: float) -> Path:
    """Collapsed stacks of a window of load, in a temporary file."""
    out = Path(tempfile.mkdtemp(prefix="driftline-profile-")) / "stacks"
    # Native code without Python above it is in the table of threads; --nonblocking leaves the service running freely.
    command = [program, "record", "--pid", str(pid), "--format", "raw", "--output", str(out), "--threads"]
    command += ["--rate", str(HERTZ), "--duration", str(int(seconds)), "--nonblocking"]
    load = threading.Thread(target=drive, args=(url, bodies, connections, seconds + 2), kwargs={"warm_up": 0})
    load.start()
    time.sleep(1)
    subprocess.run(command, capture_output=True, check=True)
    load.join()
    return out


def stacks(path: Path) -> Iterator[tuple[str, list[str], int]]:
    """Thread kind, frames from outermost to innermost, and samples of each line."""
    for line in path.read_text(encoding="utf-8").splitlines():
        frames, _, count = line.rpartition(" ")
        first, *rest = frames.split(";")
        name = re.sub(r"^thread \(\w+\):? ?", "", first)
        yield re.sub(r"[-_ ]*\d+.*$", "", name) or first, rest, int(count)


def show_functions(path: Path, top: int) -> None:
    """For each thread: functions by samples they are under, and by samples they are the innermost of."""
    under: dict[str, Counter[str]] = {}
    inner: dict[str, Counter[str]] = {}
    totals: Counter[str] = Counter()
    for thread, frames, count in stacks(path):
        totals[thread] += count
        names = [_short(frame) for frame in frames]
        if _LOOP in names:
            names = names[names.index(_LOOP) :]
        for name in set(names):
            under.setdefault(thread, Counter())[name] += count
        if names:
            inner.setdefault(thread, Counter())[names[-1]] += count
    for thread, total in totals.most_common():
        if total < sum(totals.values()) / 100:
            continue
        print(f"\n{thread}: {total} samples")
        print("| under | share | innermost | share |\n| --- | ---: | --- | ---: |")
        ours = [(name, n) for name, n in under.get(thread, Counter()).most_common() if n < total * 0.99]
        left, right = ours[:top], inner.get(thread, Counter()).most_common(top)
        for index in range(max(len(left), len(right))):
            a = left[index] if index < len(left) else ("", 0)
            b = right[index] if index < len(right) else ("", 0)
            print(f"| {a[0]} | {a[1] / total:.1%} | {b[0]} | {b[1] / total:.1%} |")


def _short(frame: str) -> str:
    found = _FRAME.match(frame)
    if found is None:
        return frame
    file = found["file"].removeprefix(_ROOT + "/")
    return f"`{found['name']}` {re.sub(r'^.*site-packages/', '', file)}"


def main() -> None:
    """Load the service and print both views."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, default=TICKETS, help="CSV or JSONL with a text column")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--connections", type=int, default=None, help="by default 32, for --load many 8")
    parser.add_argument("--load", choices=("single", "many", "mixed", "cached"), default="single")
    parser.add_argument("--model", default=None, help="an adapter instead of the backbone")
    parser.add_argument("--top", type=int, default=15, help="functions shown of each thread")
    o = parser.parse_args()
    texts = read_texts(o.texts)
    backbone, tokenizer = default_model(o.data_dir)
    model = o.model or backbone
    if o.load == "mixed":
        texts = mixed_lengths(texts, tokenizer, 2048)
    given = batches(texts, 32, 256) if o.load in ("many", "mixed") else texts
    connections = o.connections or (8 if o.load in ("many", "mixed") else 32)
    settings = {} if o.load == "cached" else {"DRIFTLINE_CACHE_BYTES": "0"}
    program = spy()
    print(describe())
    print(f"load: {o.load}, {connections} connections, tokens: {lengths(tokenizer.encode(texts, True).counts)}")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(Home.at(o.data_dir).data_dir, worker=False, settings=settings) as url,
    ):
        print(served(url))
        bodies = BodyFile(Path(folder), "profile", [embedding_body(model, each) for each in given])
        pid = server_pid(url)
        spent = spend(url, pid, bodies, connections, o.seconds)
        show_threads(spent, thread_names(program, pid), pid)
        print(f"resident memory {memory(pid).resident / 2**20:.0f} MiB; {spent.outcome.failed} requests failed")
        if program is None:
            print("py-spy is not installed: no functions are shown")
        else:
            show_functions(sampled(program, pid, url, bodies, connections, o.seconds), o.top)
    if spent.outcome.failed:
        raise SystemExit(f"{spent.outcome.failed} requests failed")


if __name__ == "__main__":
    main()
