"""The acts of the demo: embed, refit, judge, promote, ordinary traffic, drifted traffic, alarm, refit again."""

import random
import time
from typing import Any

import numpy as np
from rich.progress import Progress
from rich.table import Table

from cli.common import fail
from cli.demo_client import DemoClient, Vectors
from cli.demo_data import Tickets

ADAPTER = "support"
DATASET = "tickets"
LOOK_EVERY = 8
NORMAL_REQUESTS = 144
MOST_DRIFTED = 240
OFF_TOPIC_SHARE = 0.4


class Tour:
    """The acts of the demo in order; each prints what it did and keeps its facts."""

    def __init__(self, client: DemoClient, tickets: Tickets, bar: Progress, *, quiet: bool) -> None:
        self.client = client
        self.tickets = tickets
        self.bar = bar
        self.quiet = quiet
        self.chance = random.Random(11)
        # Each message is sent once: a repeated one is no evidence of drift.
        self.usual = [row["text"] for row in tickets.kept_back]
        self.off_topic = list(tickets.off_topic)
        self.chance.shuffle(self.usual)
        self.chance.shuffle(self.off_topic)

    def run(self) -> dict[str, Any]:
        """Every act; returns the facts the summary is made of."""
        before = self.embed(self.client.backbone())
        self.say(f"1. The bare backbone finds the right intent for [bold]{before:.1%}[/bold] of messages kept back.")
        job = self.refit()
        verdict = job["verdict"] or {"outcome": job["state"], "reasons": []}
        self.say(
            f"2. A refit on {len(self.tickets.uploaded)} tickets: the gate says [bold]{verdict['outcome']}[/bold]."
        )
        self.reasons(verdict)
        if job["version"] is None:
            raise fail(f"the refit ended as {job['state']}: {job['error']}")
        after = self.embed(f"{ADAPTER}@{job['version']}")
        gain = 100 * (after - before)
        self.say(
            f"3. The candidate finds [bold]{after:.1%}[/bold] of the same messages ({gain:+.1f} points). Promoting it."
        )
        self.client.promote(ADAPTER, job["version"])
        quiet = self.traffic("normal traffic", 0.0, NORMAL_REQUESTS)
        self.say(f"4. {quiet['sent']} requests of normal traffic: {'an alarm' if quiet['alarm'] else 'no alarm'}.")
        drifted = self.traffic("drifted traffic", OFF_TOPIC_SHARE, MOST_DRIFTED)
        self.alarm(drifted)
        again = self.refit_on_alert()
        return {
            "accuracy_before": before,
            "accuracy_after": after,
            "verdict": verdict["outcome"],
            "version": f"{ADAPTER}@{job['version']}",
            "normal_requests": quiet["sent"],
            "alarm_on_normal_traffic": quiet["alarm"],
            "requests_until_alarm": drifted["sent"] if drifted["alarm"] else None,
            "moved": drifted["state"].get("alarm", {}).get("moved", []) if drifted["alarm"] else [],
            "second_verdict": (again["verdict"] or {}).get("outcome", again["state"]),
            "second_promoted": bool((again["metrics"].get("promotion") or {}).get("promoted")),
            "as_expected": bool(verdict["outcome"] == "pass" and not quiet["alarm"] and drifted["alarm"]),
        }

    def embed(self, model: str) -> float:
        """Share of kept-back tickets whose five nearest uploaded ones vote for the right intent, by similarity."""
        with self.working(f"embedding with {model}"):
            index, _ = self.client.embed(model, [row["text"] for row in self.tickets.uploaded])
            queries, _ = self.client.embed(model, [row["text"] for row in self.tickets.kept_back])
        return accuracy(
            index,
            np.array([row["label"] for row in self.tickets.uploaded]),
            queries,
            np.array([row["label"] for row in self.tickets.kept_back]),
        )

    def refit(self) -> dict[str, Any]:
        """Upload the tickets and refit on them; promotion is left to the tour."""
        self.client.upload(DATASET, self.tickets.uploaded)
        return self.watch(self.client.retrain(ADAPTER, DATASET, {"promote": False}))

    def refit_on_alert(self) -> dict[str, Any]:
        """Label the newcomers, upload a second revision, and let an alert ask for the refit."""
        fresh = [{"text": text, "label": "off_topic"} for text in self.tickets.off_topic]
        revision = self.client.upload(DATASET, [*self.tickets.uploaded, *fresh])["revision"]
        answer = self.client.alert(ADAPTER)["alerts"][0]
        self.say(
            f"6. The new messages are labelled and uploaded as revision {revision}; the alert's webhook is answered "
            f"[bold]{answer['outcome']}[/bold] and queues {answer.get('job_id', 'nothing')}."
        )
        job = self.watch(answer["job_id"])
        verdict = job["verdict"] or {"outcome": job["state"], "reasons": []}
        self.say(f"7. The gate on the second refit: [bold]{verdict['outcome']}[/bold].")
        self.reasons(verdict)
        return job

    def watch(self, job_id: str) -> dict[str, Any]:
        """Follow a job with a progress bar."""
        task = self.bar.add_task("waiting for the worker", total=1.0)
        job: dict[str, Any] = {}
        for job in self.client.follow(job_id):
            self.bar.update(task, description=f"refit: {job['step'] or job['state']}", completed=job["progress"])
        self.bar.remove_task(task)
        return job

    def traffic(self, name: str, off_topic: float, most: int) -> dict[str, Any]:
        """Send messages one by one until the alarm or `most`; `off_topic` is the share of those on other subjects."""
        task = self.bar.add_task(f"sending {name}", total=most)
        sent, state = 0, self.client.drift(ADAPTER)
        while sent < most and not state.get("alarm_active"):
            texts = [
                (self.off_topic if self.chance.random() < off_topic else self.usual).pop() for _ in range(LOOK_EVERY)
            ]
            self.client.embed(ADAPTER, texts, batch=1)
            sent += len(texts)
            state = self.seen(state.get("observations", 0) + len(texts))
            self.bar.update(task, completed=sent)
        self.bar.remove_task(task)
        return {"sent": sent, "alarm": bool(state.get("alarm_active")), "state": state}

    def seen(self, observations: int) -> dict[str, Any]:
        """The drift state once the monitor, which works after the answers have gone, has seen that many vectors."""
        until = time.monotonic() + 5
        state = self.client.drift(ADAPTER)
        while state.get("observations", 0) < observations and time.monotonic() < until:
            time.sleep(0.02)
            state = self.client.drift(ADAPTER)
        return state

    def alarm(self, drifted: dict[str, Any]) -> None:
        """Say whether the drifted traffic was noticed, and which neighbourhoods moved."""
        share = f"{OFF_TOPIC_SHARE:.0%} about other things"
        if not drifted["alarm"]:
            self.say(f"5. {drifted['sent']} requests, {share}: no alarm.")
            return
        self.say(f"5. Then {share}: the [red]drift alarm[/red] after {drifted['sent']} requests. What moved:")
        table = Table("neighbourhood", "usual share", "share now", "requests unlike anything known")
        for moved in drifted["state"]["alarm"]["moved"][:6]:
            names = ", ".join(label for label, _ in moved["labels"][:2]) or f"cell {moved['cell']}"
            table.add_row(names, f"{moved['expected']:.1%}", f"{moved['observed']:.1%}", str(moved["novel"]))
        if not self.quiet:
            self.bar.console.print(table)

    def reasons(self, verdict: dict[str, Any]) -> None:
        """The gate's reasons, one a line."""
        for reason in verdict["reasons"]:
            self.say(f"     {'[green]+[/green]' if reason['ok'] else '[red]-[/red]'} {reason['text']}")

    def say(self, line: str) -> None:
        """Print above the progress bar."""
        if not self.quiet:
            self.bar.console.print(line, soft_wrap=True)

    def working(self, name: str) -> "Working":
        """A spinner while one act goes on."""
        return Working(self.bar, name)


class Working:
    """A task of unknown length on the progress bar."""

    def __init__(self, bar: Progress, name: str) -> None:
        self.bar = bar
        self.name = name

    def __enter__(self) -> None:
        self.task = self.bar.add_task(self.name, total=None)

    def __exit__(self, *_: object) -> None:
        self.bar.remove_task(self.task)


def accuracy(index: Vectors, labels: np.ndarray[Any, Any], queries: Vectors, truth: np.ndarray[Any, Any]) -> float:
    """Share of queries whose five nearest index rows vote, weighted by similarity, for the right label."""
    names, codes = np.unique(labels, return_inverse=True)
    scores = queries @ index.T
    votes = np.zeros((len(queries), len(names)), np.float32)
    rows = np.arange(len(queries))
    for column in np.argsort(-scores, axis=1)[:, :5].T:
        np.add.at(votes, (rows, codes[column]), scores[rows, column])
    return float((names[votes.argmax(axis=1)] == truth).mean())
