"""The whole loop with a real Prometheus and Alertmanager on loopback, under the rules and routes that we ship: traffic
drifts, the rule fires, the webhook asks for a retrain, a worker runs it, its version goes live, the alert ends.
"""

import contextlib
import csv
import importlib.util
import io
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from registry import datasets, jobs, keys
from registry.home import Home
from registry.jobs import Job, JobState
from registry.keys import Scope
from registry.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
ALERT = "DriftlineDriftDetected"
# Quick to fit: what is tried here is the way there and back.
RECIPE = {"steps": 24, "hidden": 64}
# Of any one answer; other tests may run beside this one.
SECONDS = 60.0
ANIMALS = ("giraffe", "panda", "walrus", "heron")
PLACES = ("Kenya", "China", "Peru", "Chad", "Norway", "Fiji", "Laos", "Chile")
DOINGS = ("eats leaves", "sleeps standing", "feeds its young", "swims at dawn", "hides from rain", "climbs a tree")


def _service_helpers() -> Any:
    """The module of the service's fixtures, which belongs to no package."""
    path = ROOT / "tests" / "service" / "conftest.py"
    spec = importlib.util.spec_from_file_location("service_helpers_of_the_loop", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


HELPERS = _service_helpers()
exact_encoder, topical, publish, spawn = HELPERS.exact_encoder, HELPERS.topical, HELPERS.publish, HELPERS.spawn


def rows_csv(*, animals: bool) -> bytes:
    """What the adapter was fitted to, and what a person added once the new texts were seen: four topics more."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["text", "label"])
    per_subject = len(HELPERS.PROBLEMS) * len(HELPERS.ENDINGS)
    writer.writerows([text, HELPERS.SUBJECTS[n // per_subject]] for n, text in enumerate(HELPERS.TOPICAL))
    if animals:
        writer.writerows([f"the {a} {doing} in {place}", a] for a in ANIMALS for doing in DOINGS for place in PLACES)
    return out.getvalue().encode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(what: str, found: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (seen := found()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return seen


class Programs:
    """Prometheus and Alertmanager as `deploy/` configures them, with their own ports, folders and a faster clock."""

    def __init__(self, folder: Path, service_port: int, key_file: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        self.prometheus = f"http://127.0.0.1:{free_port()}"
        self.alertmanager = f"http://127.0.0.1:{free_port()}"
        self._configure_alertmanager(service_port, key_file)
        self._configure_prometheus(service_port)

    def _configure_alertmanager(self, service_port: int, key_file: Path) -> None:
        config = yaml.safe_load((ROOT / "deploy" / "alertmanager.yml").read_text(encoding="utf-8"))
        config["route"] |= {"group_wait": "1s", "group_interval": "1s"}
        (webhook,) = [w for r in config["receivers"] for w in r.get("webhook_configs", [])]
        webhook["url"] = f"http://127.0.0.1:{service_port}/admin/alerts"
        webhook["http_config"]["authorization"]["credentials_file"] = str(key_file)
        (self._folder / "alertmanager.yml").write_text(yaml.safe_dump(config), encoding="utf-8")

    def _configure_prometheus(self, service_port: int) -> None:
        rules = self._folder / "rules"
        rules.mkdir()
        for path in (ROOT / "helm" / "rules").glob("*.yaml"):
            file = yaml.safe_load(path.read_text(encoding="utf-8"))
            for group in file["groups"]:
                group["interval"] = "1s"
                for rule in group["rules"]:
                    if "for" in rule:
                        rule["for"] = "1s"
            (rules / path.name).write_text(yaml.safe_dump(file), encoding="utf-8")
        config = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (manager,) = config["alerting"]["alertmanagers"]
        manager["static_configs"] = [{"targets": [self.alertmanager.removeprefix("http://")]}]
        (scrape,) = [s for s in config["scrape_configs"] if s["job_name"] == "driftline"]
        target = {"targets": [f"127.0.0.1:{service_port}"]}
        config["scrape_configs"] = [{"job_name": scrape["job_name"], "static_configs": [target]}]
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")

    def start(self) -> None:
        """Start both and wait until they are ready."""
        self._run(
            shutil.which("prometheus-alertmanager") or "alertmanager", "--config.file=alertmanager.yml",
            f"--storage.path={self._folder / 'alertmanager'}", "--cluster.listen-address=",
            f"--web.listen-address={self.alertmanager.removeprefix('http://')}",
        )  # fmt: skip
        self._run(
            "prometheus", "--config.file=prometheus.yml", f"--storage.tsdb.path={self._folder / 'prometheus'}",
            f"--web.listen-address={self.prometheus.removeprefix('http://')}",
        )  # fmt: skip
        for url in (self.alertmanager, self.prometheus):
            wait_for(f"{url} is not ready: {self._logs()}", lambda url=url: answers(f"{url}/-/ready"))

    def _run(self, program: str, *options: str) -> None:
        with (self._folder / f"{Path(program).name}.log").open("wb") as log:
            self._started.append(subprocess.Popen([program, *options], cwd=self._folder, stdout=log, stderr=log))

    def _logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in self._folder.glob("*.log"))

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The instant vector of an expression."""
        answer = httpx2.get(f"{self.prometheus}/api/v1/query", params={"query": expr}, timeout=SECONDS).json()
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def value(self, expr: str) -> float | None:
        """The only value of an expression; None when there is none."""
        found = self.query(expr)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def alerts(self) -> list[dict[str, Any]]:
        """What the Alertmanager holds as active under the loop's alert."""
        found: list[dict[str, Any]] = httpx2.get(f"{self.alertmanager}/api/v2/alerts", timeout=SECONDS).json()
        return [alert for alert in found if alert["labels"]["alertname"] == ALERT]

    def stop(self) -> None:
        """End both."""
        for process in self._started:
            process.terminate()
        for process in self._started:
            process.wait(timeout=20)


def answers(url: str) -> bool:
    with contextlib.suppress(httpx2.HTTPError):
        return httpx2.get(url, timeout=SECONDS).status_code == 200
    return False


@pytest.fixture
def start_programs(tmp_path: Path) -> Iterator[Callable[[int, Path], Programs]]:
    if shutil.which("prometheus") is None or not (
        shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    ):
        pytest.skip("prometheus or alertmanager is not installed (Debian: prometheus, prometheus-alertmanager)")
    started: list[Programs] = []

    def start(service_port: int, key_file: Path) -> Programs:
        folder = tmp_path / "programs"
        folder.mkdir()
        programs = Programs(folder, service_port, key_file)
        started.append(programs)
        programs.start()
        return programs

    yield start
    for programs in started:
        programs.stop()


def embed_one(url: str, headers: dict[str, str]) -> httpx2.Response:
    body = {"model": "support", "input": "x"}
    return httpx2.post(f"{url}/v1/embeddings", json=body, headers=headers, timeout=SECONDS)


def issue(registry: Registry, name: str, scope: Scope) -> str:
    with registry.writing() as session:
        return keys.issue(session, name, [scope], by="test")[1]


def jobs_of(registry: Registry, adapter: str) -> list[Job]:
    with registry.reading() as session:
        return jobs.all(session, adapter)


def test_drifting_traffic_ends_in_a_new_live_version_and_the_alert_ends(
    backbone_home: Home,
    publish: Any,
    spawn: Any,
    start_programs: Callable[[int, Path], Programs],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DRIFTLINE_PROVIDER", "cpu")  # of the worker that the service starts
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    registry: Registry = publish.registry
    publish("support", 1)
    with registry.writing() as session:
        datasets.add(session, registry.artifacts, "support", rows_csv(animals=False), "csv")
        # An alert takes dataset and recipe from the adapter's last job, and the dataset's newest revision.
        job = jobs.enqueue(session, adapter="support", dataset="support", recipe=RECIPE, requested_by="test")
        jobs.request_cancel(session, job.id)
        datasets.add(session, registry.artifacts, "support", rows_csv(animals=True), "csv")
    key_file = tmp_path / "key"
    key_file.write_text(issue(registry, "alertmanager", Scope.TRAIN), encoding="utf-8")
    caller = {"authorization": f"Bearer {issue(registry, 'caller', Scope.ADMIN)}"}
    service = spawn(backbone_home, worker=True, drift_window=64, drift_arl=10_000, drift_per_request=64)
    programs = start_programs(service.port, key_file)

    def embed(texts: list[str]) -> None:
        for start in range(0, len(texts), 32):
            body = {"model": "support", "input": texts[start : start + 32]}
            answer = httpx2.post(f"{service.url}/v1/embeddings", json=body, headers=caller, timeout=SECONDS)
            assert answer.status_code == 200, answer.text

    def monitor() -> dict[str, Any]:
        found: dict[str, Any] = httpx2.get(f"{service.url}/admin/drift/support", headers=caller, timeout=SECONDS).json()
        return found

    # The key that Alertmanager presents may ask for a retrain and for nothing else.
    theirs = {"authorization": f"Bearer {key_file.read_text()}"}
    assert embed_one(service.url, theirs).status_code == 403

    # Traffic like the reference: it is scraped, and nothing fires.
    embed([text for n, text in enumerate(HELPERS.TOPICAL) if n % 9 == 0])
    wait_for("no calm monitor is scraped", lambda: programs.value("adapter:driftline_drift_alarm_active:max") == 0)
    wait_for("no version is scraped", lambda: programs.query('driftline_live_version_info{version="1"}'))
    assert programs.alerts() == []

    # It drifts.
    embed([f"{animal} number {n} {doing}" for n in range(4) for animal in ANIMALS for doing in DOINGS])
    wait_for("no alarm is raised", lambda: monitor().get("alarm_active"))
    wait_for("the shift is too small", lambda: monitor().get("actionable"))
    (alert,) = wait_for("the rule does not fire", programs.alerts)
    evidence = 'sum by (adapter) (driftline_drift_observations_total{adapter="support"})'
    wait_for("the counts differ", lambda: programs.value(evidence) == monitor().get("evidence"))
    assert (alert["labels"]["adapter"], alert["labels"]["action"]) == ("support", "retrain")

    # One job, asked for by the Alertmanager's key, run by the worker; its version goes live.
    wait_for("no job is asked for", lambda: len(jobs_of(registry, "support")) == 2)
    ended = wait_for(
        "the job does not end",
        lambda: next((j for j in jobs_of(registry, "support")[:1] if j.state.finished), None),
        300,
    )
    assert (ended.state, ended.requested_by) == (JobState.SUCCEEDED, "alertmanager"), ended.error
    assert (ended.dataset, ended.revision) == ("support", 2)
    assert ended.version == 2, ended.metrics
    assert (ended.verdict or {}).get("outcome") == "pass", ended.verdict
    wait_for("version 2 is not scraped", lambda: programs.query('driftline_live_version_info{version="2"}'))
    answer = embed_one(service.url, caller)
    assert answer.headers["x-driftline-version"] == "support@2"

    # The alarm was about version 1: it ends by itself, everywhere, and leads to nothing more.
    wait_for("the alarm stands", lambda: programs.value("adapter:driftline_drift_alarm_active:max") == 0)
    wait_for("the alert does not end", lambda: programs.alerts() == [])
    told = 'driftline_retrain_requests_total{source="alert", outcome="resolved"}'
    wait_for("the end is not told", lambda: programs.value(told))
    assert programs.value('driftline_retrain_requests_total{source="alert", outcome="accepted"}') == 1
    assert len(jobs_of(registry, "support")) == 2
    assert monitor()["version"] == "support@2"
    assert programs.value('adapter_state:driftline_last_job_timestamp_seconds:max{state="succeeded"}') == pytest.approx(
        ended.finished_at.timestamp(), abs=1e-3
    )
    assert programs.query('ALERTS{alertname="DriftlineRetrainFailed"}') == []
    assert service.stop() == 0
