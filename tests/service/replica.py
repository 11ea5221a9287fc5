"""One service's watch in a process of its own, told line by line what was served: `python replica.py HOME VECTORS`.

A line {"offer": [rows]} serves these rows of VECTORS and pushes; the answer {"stored": n} says that the registry has
taken all, n being what the shared state has counted of all services. {"die": "before" | "after"} has the process kill
itself at its next push, around the commit.
"""

import contextlib
import json
import os
import signal
import sys

import numpy as np

from monitoring.metrics import Metrics
from monitoring.monitor_settings import MonitorSettings
from monitoring.reference import Reference
from registry import versions
from registry.home import Home
from service.snapshot import LoadedVersion
from service.watch import Watch

SETTINGS = MonitorSettings(window=64, arl=10_000)


def watch_of(registry):
    """A watch that has begun, and the version it watches."""
    with registry.reading() as session:
        record = versions.live(session, "support")
    loaded = LoadedVersion(record, None, Reference.from_bytes(registry.fetch(record.reference)))
    options = {"limit": 10_000, "rate": 1e6, "per_request": 1000, "per_session": 1000, "keep": 10_000}
    watch = Watch(registry, Metrics(), SETTINGS, **options)
    watch.start()
    watch.follow({"support": loaded})
    return watch, loaded


def pushed(watch):
    """Push; what the shared state has counted by then, None when it could not be stored."""

    def push(watched):
        one = watched["support"]
        return one.monitor.evidence if one.push() else None

    return watch.ask(push).result(timeout=60)


def die_at_the_next_commit(registry, when):
    """Have the process kill itself right before or after the commit of its next write."""
    whole = registry.writing

    @contextlib.contextmanager
    def writing():
        with whole() as session:
            yield session
            if when == "before":
                session.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    registry.writing = writing


def main(home, vectors):
    registry = Home.at(home).registry()
    stream = np.load(vectors)
    watch, version = watch_of(registry)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "die" in command:
            die_at_the_next_commit(registry, command["die"])
            continue
        rows = command["offer"]
        watch.offer(version, stream[rows], [b"%d" % row for row in rows])
        print(json.dumps({"stored": pushed(watch)}), flush=True)
    watch.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
