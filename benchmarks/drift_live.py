"""Drift through the running service: `python benchmarks/drift_live.py BANKING77 CLINC --data-dir HOME`.

HOME holds a live adapter `banking` fitted on Banking77's train.csv (benchmarks/banking77.py --data-dir makes it).
Sends shuffled test.csv texts one request a text and counts alarms, then mixes in a share of CLINC150's out-of-scope
texts and counts the requests until the alarm. Alarms are acknowledged between runs.
"""

import argparse
import csv
import json
import random
import time
from pathlib import Path

import httpx2
from machine import describe

from cli.server import running_service

ADAPTER = "banking"


class Stream:
    """Sends texts as single requests and asks for the drift state every `step` of them."""

    def __init__(self, client: httpx2.Client, step: int) -> None:
        self.client = client
        self.step = step

    def alarm_active(self) -> bool:
        """The latched alarm, as the metrics export it, once every sent vector has been seen."""
        time.sleep(0.7)
        for sample in self.client.get("/metrics").text.splitlines():
            if sample.startswith("driftline_drift_alarm_active{") and f'adapter="{ADAPTER}"' in sample:
                return float(sample.rsplit(" ", 1)[1]) == 1.0
        raise SystemExit("the service exports no driftline_drift_alarm_active for this adapter")

    def until_alarm(self, texts: list[str]) -> int | None:
        """Requests sent when the alarm was first seen; None when it never was."""
        for sent, text in enumerate(texts, 1):
            self.client.post("/v1/embeddings", json={"model": ADAPTER, "input": text}).raise_for_status()
            if sent % self.step == 0 and self.alarm_active():
                return sent
        return None

    def acknowledge(self) -> None:
        """Clear the alarm and the window before the next run."""
        self.client.post(f"/admin/drift/{ADAPTER}/acknowledge").raise_for_status()


def main() -> None:
    """Print how often and how soon each kind of traffic alarms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("banking77", type=Path)
    parser.add_argument("clinc", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--requests", type=int, default=3000)
    options = parser.parse_args()
    with (options.banking77 / "test.csv").open(newline="", encoding="utf-8") as file:
        usual = [row["text"] for row in csv.DictReader(file)]
    lines = (options.clinc / "oos_test.jsonl").read_text(encoding="utf-8").splitlines()
    strange = [json.loads(each)["text"] for each in lines]
    print(describe())
    print("| traffic | run | requests sent | requests until the alarm |\n| --- | ---: | ---: | ---: |")
    with running_service(options.data_dir, worker=False) as url, httpx2.Client(base_url=url, timeout=30) as client:
        stream = Stream(client, step=64)
        stream.acknowledge()  # whatever an earlier run left behind
        for share in (0.0, 0.1):
            for run in range(options.runs):
                chance = random.Random(run)
                count = options.requests
                texts = [chance.choice(strange if chance.random() < share else usual) for _ in range(count)]
                alarm = stream.until_alarm(texts)
                print(f"| {share:.0%} out of scope | {run + 1} | {alarm or count} | {alarm or 'none'} |", flush=True)
                stream.acknowledge()


if __name__ == "__main__":
    main()
