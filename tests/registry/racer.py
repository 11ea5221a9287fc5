"""One racer: a process that runs the scripts it is handed, line by line of JSON, until its input closes.

It is started once and runs many races, so that a race costs no interpreter start. In a script `home` is the home to
race on, `number` the racer's own, `ready()` the start line, and `say(...)` the outcome.
"""

import json
import sys
import time

from registry import alerts, backbones, datasets, errors, events, jobs, keys, readings, versions
from registry.home import Home

MODULES = {
    m.__name__.rpartition(".")[2]: m for m in (alerts, backbones, datasets, errors, events, jobs, keys, readings)
}


def _tell(**message: object) -> None:
    print(json.dumps(message), flush=True)


def _ready() -> None:
    _tell(ready=True)
    sys.stdin.readline()


for line in iter(sys.stdin.readline, ""):
    race = json.loads(line)
    said: list[str] = []
    names = {
        **MODULES,
        "versions": versions,
        "time": time,
        "home": Home.at(race["data_dir"], race["url"]),
        "number": race["number"],
        "ready": _ready,
        "say": lambda *words, said=said: said.append(" ".join(map(str, words))),
        "acknowledge": lambda word: _tell(acknowledged=word),
    }
    try:
        exec(race["script"], names)
        names["registry"].close()
        _tell(said=said)
    except Exception as error:  # noqa: BLE001 - whatever it was, the test that waits is told
        _tell(failed=repr(error))
