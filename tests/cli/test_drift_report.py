"""`driftline drift report` and `replay` on a home whose monitor has alarmed; the page stands by itself and is safe."""

import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli.main import app
from monitoring.detectors import leading
from monitoring.drift_map import Plane
from monitoring.monitor import Monitor
from monitoring.monitor_settings import MonitorSettings
from monitoring.reference import Reference
from registry import backbones, keys, readings, retained, versions
from registry.home import Home
from registry.retained import Sent

DIMENSION = 16
HOSTILE = "<script>alert('x')</script>"
ARL = 5_000


def cloud(rng: np.random.Generator, n: int, foreign: float = 0.0) -> Any:
    """n unit vectors around six centres, a share of them around a seventh."""
    centres = np.random.default_rng(7).normal(size=(7, DIMENSION))
    chosen = np.where(rng.random(n) < foreign, 6, rng.integers(0, 6, n))
    x = centres[chosen] + 0.5 * rng.normal(size=(n, DIMENSION))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A home with a live version of `support`, its monitor alarmed, and a kept text; its reference and the vectors."""
    rng = np.random.default_rng(2)
    reference = Reference.build(
        fit=cloud(rng, 400), fit_ids=[f"row-{i}" for i in range(400)],
        fit_labels=[f"{HOSTILE}{i % 6}" for i in range(400)],
        calibration=cloud(rng, 400), replay=cloud(rng, 600), directions=32,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("report") / "home"
    registry = Home.at(folder).registry()
    digest = registry.store(reference.to_bytes())
    vectors = np.concatenate([cloud(rng, 256), cloud(rng, 256, foreign=0.4)])
    monitor = Monitor(reference, MonitorSettings(window=64, arl=ARL))
    with registry.writing() as session:
        backbones.add(
            session, {"name": "MiniLM", "dimension": DIMENSION, "max_tokens": 256, "source": "test"}, "b" * 64
        )
        versions.ensure_adapter(session, "support", "b" * 64)
        version = versions.publish(
            session, adapter="support", digest="c" * 64, kind="head", backbone="b" * 64, reference=digest,
            parent=None, job_id=None, dataset="d@1", metrics={}, verdict=None, rejected=False,
        )  # fmt: skip
        versions.promote(session, "support", version.number, by="test")
        for i in range(0, len(vectors), 64):
            for reading in monitor.observe(vectors[i : i + 64]).readings:
                told = {
                    "novelty_rate": reading.statistic("novelty").value,
                    "total_variation": reading.statistic("occupancy").effect,
                    "p_values": list(reading.window.p_values),
                    "evidence": {name: list(pair) for name, pair in leading(monitor).items()},
                }
                readings.add(
                    session, adapter="support", version=1, window_n=reading.n, statistics=told,
                    cells=reading.window.cells, alarm=reading.alarm,
                )  # fmt: skip
        readings.put_state(session, "support", 1, state=monitor.to_json(), alarm_active=monitor.alarm_active)
        assert monitor.alarm is not None
        cell = int(monitor.alarm.moved[0]["cell"])
        key, _ = keys.issue(session, "caller", [keys.Scope.EMBED], retain_days=3)
        now = datetime.now(UTC)
        middle = reference.centroids[cell].astype(np.float16).tobytes()
        sent = Sent(key.id, f"{HOSTILE} my secret", middle, now, now + timedelta(days=1))
        retained.add(session, "support", 1, [sent], keep=10)
    registry.close()
    return SimpleNamespace(folder=folder, reference=reference, vectors=vectors, monitor=monitor, cell=cell)


def call(made: SimpleNamespace, *words: str, code: int = 0) -> Result:
    found = CliRunner().invoke(app, ["drift", *words, "--data-dir", str(made.folder)])
    assert found.exit_code == code, found.output
    return found


class Page(HTMLParser):
    """Elements with their attributes, and the text outside of the style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str, kind: str | None = None) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and (kind is None or kind in (a.get("class") or "").split())]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that the service of this home has."""
    monkeypatch.setenv("DRIFTLINE_DRIFT_ARL", str(ARL))
    monkeypatch.setenv("DRIFTLINE_DRIFT_WINDOW", "64")


def test_the_page_stands_by_itself_and_shows_the_state(made: SimpleNamespace, service: None, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    call(made, "report", "support", "--out", str(out))
    text = out.read_text()
    page = Page(text)
    policy = next(a["content"] for a in page.of("meta") if a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not re.search(r"https?://|url\(|@import|javascript:", text)
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on") or a in ("src", "style")]
    assert {a["href"] for a in page.of("a")} <= {f"#{a['id']}" for a in page.of("section")}
    for words in (
        "An alarm stands since",
        "The monitor is calibrated",
        f"in {ARL:,} texts on average",
        "retrain",
        "The registry keeps counts",
        "The shift is large enough to act on",
    ):
        assert words in page.text, words
    for words in made.reference.sizes(ARL, 64).words:
        assert words in page.text, words
    # A picture each for evidence, novelty, p-values, neighbourhoods and the map, and a sentence under each of them.
    assert len(page.of("svg")) == len(page.of("figcaption")) == 5
    assert len(page.of("circle", "item")) == 400
    assert len(page.of("circle", "ring")) == len(made.reference.cells)
    # Labels are hostile; they and no text of the traffic are there.
    assert HOSTILE in page.text
    assert "my secret" not in text
    assert "exists" in call(made, "report", "support", "--out", str(out), code=1).output
    call(made, "report", "support", "--out", str(out), "--overwrite")


def test_texts_are_shown_only_where_they_are_asked_for(made: SimpleNamespace, service: None) -> None:
    shown = call(made, "report", "support", "--with-texts", "--out", "-").stdout
    assert "my secret" in Page(shown).text
    assert "<script>" not in shown
    assert "this page holds texts of users" in Page(shown).text
    assert "my secret" not in call(made, "report", "support", "--json").stdout


def test_the_document_agrees_with_the_monitor(made: SimpleNamespace, service: None) -> None:
    found = json.loads(call(made, "report", "support", "--json").stdout)
    monitor, reference = made.monitor, made.reference
    assert found["alarm"] == json.loads(json.dumps(monitor.alarm.to_json()))
    assert found["state"]["alarm_active"]
    assert found["state"]["actionable"]
    assert (found["state"]["observations"], found["state"]["windows"]) == (512, 8)
    assert found["advice"]["action"] == json.loads(call(made, "advice", "support", "--json").stdout)["action"]
    assert found["sizes"] == reference.sizes(ARL, 64).to_json()
    assert found["run_length"]["stated"] == ARL
    assert found["run_length"]["replay"]["observations"] == 600
    total = found["detectors"][0]
    value, line = monitor.evidence_log()["total"]
    assert (total["name"], total["now"]["value"], total["now"]["line"]) == ("total", value, line)
    assert total["course"][-1] == value / line > 1 > total["course"][3]
    assert len(found["readings"]) == len(found["occupancy"]["at"]) == 8
    newest = found["readings"][-1]
    assert sum(found["p_values"]["newest"]) == sum(newest["p_values"]) == found["map"]["window"] == 64
    assert [cell["count"] for cell in found["map"]["cells"]] == newest["cells"]
    assert sum(found["p_values"]["expected"]) == pytest.approx(1)
    assert found["moved"][0]["cell"] == made.cell


def test_the_plane_depends_on_the_reference_alone(made: SimpleNamespace) -> None:
    plane, again = Plane.of(made.reference), Plane.of(Reference.from_bytes(made.reference.to_bytes()))
    np.testing.assert_array_equal(plane.axes, again.axes)
    np.testing.assert_allclose(plane.axes.T @ plane.axes, np.eye(2), atol=1e-12)
    assert (plane.axes[np.abs(plane.axes).argmax(axis=0), [0, 1]] > 0).all()
    placed = plane.place(made.reference.fit)
    np.testing.assert_allclose(placed.mean(axis=0), 0, atol=1e-7)
    centred = made.reference.fit.astype(np.float64) - plane.mean
    assert (placed**2).sum() / (centred**2).sum() == pytest.approx(plane.explained)
    assert plane.explained > 0.2


def test_an_acknowledged_or_unread_monitor_is_told(made: SimpleNamespace, service: None) -> None:
    registry = Home.at(made.folder).registry()
    try:
        with registry.writing() as session:
            readings.acknowledge(session, "support", by="test")
        found = json.loads(call(made, "report", "support", "--json").stdout)
        assert (found["state"]["alarm_active"], found["alarm"], found["moved"]) == (False, None, [])
        assert "No alarm stands" in call(made, "report", "support", "--out", "-").stdout
        assert "no adapter" in call(made, "report", "nothing", code=1).output
    finally:
        with registry.writing() as session:
            readings.put_state(session, "support", 1, state=made.monitor.to_json(), alarm_active=True)
        registry.close()


def write_stream(path: Path, made: SimpleNamespace, key: str = "vector") -> Path:
    """The monitor's own traffic, a row an hour."""
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    lines = [
        json.dumps({key: vector.tolist() if key == "vector" else f"text {i}", "at": f"{begin + timedelta(hours=i)}"})
        for i, vector in enumerate(made.vectors)
    ]
    path.write_text("\n".join(lines))
    return path


def test_a_stream_is_replayed_to_a_reference_or_an_adapter(made: SimpleNamespace, tmp_path: Path) -> None:
    stream, stored = write_stream(tmp_path / "s.jsonl", made), tmp_path / "reference"
    stored.write_bytes(made.reference.to_bytes())
    words = (str(stream), "--arl", str(ARL), "--json")
    by_file = json.loads(call(made, "replay", *words, "--reference", str(stored)).stdout)
    by_name = json.loads(call(made, "replay", *words, "--adapter", "support").stdout)
    assert (by_name.pop("reference"), by_file.pop("reference")) == ("support@1", str(stored))
    assert by_file == by_name
    alarm = by_file["alarms"][0]
    assert 256 < alarm["item"] < 330
    assert alarm["row"] == alarm["item"]
    assert alarm["at"].startswith("2024-01-1")
    assert by_file["quiet_runs"] == [alarm["item"]]
    assert sum(period["n"] for period in by_file["periods"]) == 512
    more = json.loads(call(made, "replay", *words, "--adapter", "support", "--acknowledge").stdout)
    assert len(more["alarms"]) > 1
    assert more["alarms"][0]["item"] == alarm["item"]
    shown = call(made, "replay", str(stream), "--adapter", "support", "--arl", str(ARL), "--period", "month").stdout
    assert f"alarm at item {alarm['item']}" in shown
    assert "2024-01" in shown
    assert f"every {ARL:,} items" in shown


def test_texts_are_encoded_by_the_live_version(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = write_stream(tmp_path / "s.jsonl", made, "text")
    asked = []

    def encode_with(encoder: Any, fetch: Any, kind: str, digest: str) -> Any:
        asked.append((kind, digest))
        return lambda texts: made.vectors[[int(text.split()[1]) for text in texts]]

    monkeypatch.setattr("encoder.encoder.Encoder.open", lambda *given, **named: asked.append(given[0]))
    monkeypatch.setattr("training.served.encode_with", encode_with)
    words = ("--adapter", "support", "--arl", str(ARL), "--json")
    found = json.loads(call(made, "replay", str(stream), *words).stdout)
    assert asked == ["b" * 64, ("head", "c" * 64)]
    vectors = json.loads(call(made, "replay", str(write_stream(tmp_path / "v.jsonl", made)), *words).stdout)
    assert found["alarms"] == vectors["alarms"]


def test_what_cannot_be_replayed_is_refused(made: SimpleNamespace, tmp_path: Path) -> None:
    stream = write_stream(tmp_path / "s.jsonl", made, "text")
    stored = tmp_path / "reference"
    stored.write_bytes(made.reference.to_bytes())
    assert "name an adapter" in call(made, "replay", str(stream), code=2).output
    assert "cannot encode texts" in call(made, "replay", str(stream), "--reference", str(stored), code=2).output
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"text": "my secret", "at": "soon"}\n')
    refused = call(made, "replay", str(bad), "--adapter", "support", code=1).output
    assert "row 2, field at" in refused
    assert "my secret" not in refused
    narrow = tmp_path / "narrow.jsonl"
    narrow.write_text('{"vector": [1, 0]}\n')
    call(made, "replay", str(narrow), "--adapter", "support", code=1)
    call(
        made,
        "replay",
        str(stream),
        "--adapter",
        "support",
        "--window",
        "64",
        "--mode",
        "windows",
        "--arl",
        "100",
        code=2,
    )
