"""Closed-loop load from `wrk`: as many requests under way as there are connections, each sent when the last came back.

`wrk` runs with one thread on the machine it measures, so its own time is part of every figure. Every request is built
once, before the clock runs, unless the bodies hold UNIQUE, which is replaced by a running number in each request sent.
"""

import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

PATH = "/v1/embeddings"
UNIQUE = "@@@"
"""In a body: replaced by a running number, so that no two requests are alike."""
WARM_UP = 2
"""Seconds of the same load before each measured window."""

_SCRIPT = """
local requests, unique, i = {}, %s, 0
local headers = {["Content-Type"] = "application/json"}
function init(args)
  for body in io.lines("%s") do
    requests[#requests + 1] = unique and body or wrk.format("POST", "%s", headers, body)
  end
  i = math.random(#requests) + %d
end
function request()
  i = i + 1
  local chosen = requests[i %% #requests + 1]
  if unique then return wrk.format("POST", "%s", headers, (chosen:gsub("%s", i))) end
  return chosen
end
function done(summary, latency, requests)
  local e = summary.errors
  print(string.format(
    'figures {"requests": %%d, "microseconds": %%d, "p50": %%d, "p99": %%d, "refused": %%d, "broken": %%d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), e.status,
    e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one window of load showed.

    Attributes:
        served: Requests answered with a status below 400.
        seconds: Length of the window.
        p50, p99: Milliseconds from sending to the whole answer.
        failed: Answers with a status of 400 or more, connections that broke, requests unanswered for a minute.
    """

    served: int
    seconds: float
    p50: float
    p99: float
    failed: int

    @property
    def rate(self) -> float:
        """Requests served a second."""
        return self.served / self.seconds


class BodyFile:
    """Request bodies on disk, one a line, where `wrk` reads them; made once and used by many windows."""

    def __init__(self, folder: Path, name: str, bodies: Iterable[str]) -> None:
        self.path = folder / f"{name}.bodies"
        self.script = folder / f"{name}.lua"
        listed = list(bodies)
        self.unique = any(UNIQUE in body for body in listed)
        self.one = listed[0].replace(UNIQUE, "").encode()
        self.path.write_text("\n".join(listed) + "\n", encoding="utf-8")


def embedding_body(model: str, texts: str | Sequence[str]) -> str:
    """One OpenAI embedding request in base64, as every window sends it."""
    given = texts if isinstance(texts, str) else list(texts)
    return json.dumps({"model": model, "input": given, "encoding_format": "base64"}, ensure_ascii=False)


def drive(
    url: str, bodies: BodyFile, connections: int, seconds: float, *, warm_up: float = WARM_UP, first: int = 0
) -> Outcome:
    """Run one window, after some seconds of the same load.

    Args:
        url: Base URL of the service.
        first: Added to the running number of UNIQUE, so that a later window repeats nothing of an earlier one.

    Raises:
        RuntimeError: `wrk` could not run, as when nothing listens at the address.
    """
    unique = "true" if bodies.unique else "false"
    bodies.script.write_text(_SCRIPT % (unique, bodies.path, PATH, first, PATH, UNIQUE), encoding="utf-8")
    if warm_up > 0:
        _wrk(url, bodies.script, connections, warm_up)
        _settle(url, bodies)
    return _wrk(url, bodies.script, connections, seconds)


def _wrk(url: str, script: Path, connections: int, seconds: float) -> Outcome:
    # wrk takes whole seconds only.
    whole = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{whole}s", "--timeout", "60s", "-s", str(script), url]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    line = next((each for each in ended.stdout.splitlines() if each.startswith("figures ")), None)
    if line is None:
        raise RuntimeError(f"wrk printed no figures: {ended.stdout}{ended.stderr}")
    found = json.loads(line.removeprefix("figures "))
    return Outcome(
        served=found["requests"] - found["refused"],
        seconds=found["microseconds"] / 1e6,
        p50=found["p50"] / 1e3,
        p99=found["p99"] / 1e3,
        failed=found["refused"] + found["broken"],
    )


def _settle(url: str, bodies: BodyFile) -> None:
    """Wait until what the closed connections had asked for is done: some servers compute it all the same."""
    with httpx2.Client(base_url=url, timeout=60) as client:
        for _ in range(2):
            client.post(PATH, content=bodies.one, headers={"content-type": "application/json"})


def alternate(
    url: str, first: BodyFile, second: BodyFile, connections: int, seconds: float
) -> tuple[list[Outcome], list[Outcome]]:
    """Two loads against one service in the order A B B A, so that a machine growing slower hurts both alike."""
    pairs: tuple[list[Outcome], list[Outcome]] = ([], [])
    for which in (0, 1, 1, 0):
        pairs[which].append(drive(url, (first, second)[which], connections, seconds, warm_up=1))
    return pairs


def mean_rate(outcomes: Sequence[Outcome]) -> float:
    """Requests a second over some windows of one length."""
    return statistics.fmean(outcome.rate for outcome in outcomes)


def scratch() -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder for body files and scripts."""
    return tempfile.TemporaryDirectory(prefix="driftline-load-")
