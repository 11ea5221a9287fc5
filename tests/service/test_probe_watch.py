"""The canary on the serving runtime: quiet while numbers stay; an event, a metric and a warning when one changes."""

import asyncio

import numpy as np
import pytest

from encoder.runtime import Precision
from registry.errors import Unavailable
from registry.tables import EventRecord
from service.probe_watch import LIMIT


def look(client):
    """One look, on the service's own loop."""
    return client.portal.call(client.app.state.service.probes.look)


def events(publish, kind):
    with publish.registry.reading() as session:
        return [e for e in session.query(EventRecord).order_by(EventRecord.id) if e.kind == kind]


def gauge(client, name):
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(f'driftline_probe_difference{{adapter="{name}"}}'):
            return float(line.split()[-1])
    return None


@pytest.fixture
def perturbed(exact_encoder, monkeypatch):
    """Makes the runtime add something to the first component of every vector."""
    real = exact_encoder.session.compute

    def add(by):
        def compute(batch, rows):
            vectors = real(batch, rows).copy()
            vectors[:, 0] += np.float32(by)
            return vectors

        monkeypatch.setattr(exact_encoder.session, "compute", compute)

    yield add
    monkeypatch.setattr(exact_encoder.session, "compute", real)


def test_a_change_of_the_runtimes_numbers_is_told(serving, backbone_home, publish, perturbed):
    publish("support", 1)
    with serving(backbone_home, drift_probe_seconds=3600) as client:
        assert look(client)
        name = client.get("/readyz").json()["model"]
        assert gauge(client, name) < 1e-5
        assert gauge(client, "support") < 1e-4
        assert client.get("/readyz").json()["warnings"] == {}

        perturbed(0.7 * LIMIT)
        look(client)
        assert gauge(client, name) == pytest.approx(0.7 * LIMIT, rel=0.05)
        assert events(publish, "probe.differs") == []

        perturbed(5 * LIMIT)
        look(client)
        look(client)
        assert gauge(client, name) == pytest.approx(5 * LIMIT, rel=0.05)
        (told,) = events(publish, "probe.differs")
        assert (told.subject, told.detail["limit"]) == (name, LIMIT)
        assert told.detail["difference"] == pytest.approx(5 * LIMIT, rel=0.05)
        # A warning, not a refusal: the service stays ready, and says what is the matter.
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert "5.0" in ready.json()["warnings"][name]
        assert client.post("/v1/embeddings", json={"model": "support", "input": "hello"}).status_code == 200
        # While texts get other vectors, no drift is acted on.
        found = client.get("/admin/drift/support/advice").json()
        assert (found["action"], found["reasons"][0]["code"]) == ("nothing", "probes_differ")

        perturbed(0.0)
        look(client)
        assert client.get("/readyz").json()["warnings"] == {}
        assert [event.subject for event in events(publish, "probe.agrees")] == [name]
        assert len(events(publish, "probe.differs")) == 1


def test_a_head_is_held_against_its_own_probes(serving, backbone_home, publish, monkeypatch):
    version = publish("support", 1)
    with serving(backbone_home, drift_probe_seconds=3600) as client:
        head = client.app.state.service.catalog.snapshot.adapters["support"].live.adapter
        real = head.apply
        monkeypatch.setattr(head, "apply", lambda base: real(base) * np.float32(1.01))
        look(client)
        assert gauge(client, "support") > LIMIT
        assert list(client.get("/readyz").json()["warnings"]) == [version.name]
        monkeypatch.setattr(head, "apply", lambda base: 1 / 0)
        look(client)
        assert gauge(client, "support") == float("inf")
        assert len(events(publish, "probe.differs")) == 1


def test_coarser_arithmetic_is_held_against_its_own_first_answer(
    serving, backbone_home, exact_encoder, perturbed, monkeypatch
):
    """As served in bf16 or int8, vectors differ from the recorded ones on every machine."""
    with serving(backbone_home, drift_probe_seconds=3600) as client:
        probes = client.app.state.service.probes
        look(client)  # after the service's own first one
        monkeypatch.setattr(type(exact_encoder.session), "precision", property(lambda _: Precision.BF16))
        perturbed(0.01)
        look(client)
        name = client.get("/readyz").json()["model"]
        assert gauge(client, name) == 0
        perturbed(0.02)
        look(client)
        assert gauge(client, name) == pytest.approx(0.01, rel=0.01)
        assert name in probes.warnings


def test_it_looks_by_itself_and_outlives_a_registry_that_is_away(serving, backbone_home, publish, monkeypatch):
    publish("support", 1)
    with serving(backbone_home, drift_probe_seconds=0.05) as client:
        service = client.app.state.service

        async def seen():
            for _ in range(200):
                if "support@1" in service.probes._found:
                    return True
                await asyncio.sleep(0.05)
            return False

        assert client.portal.call(seen)

        def away(digest):
            raise Unavailable("gone")

        monkeypatch.setattr(service.registry, "fetch", away)
        assert look(client)
        assert service.probes.warnings == {}
        assert "support@1" in service.probes._found, "what was found before still stands"


def test_overlap_with_the_version_before_is_shown(serving, backbone_home, publish):
    publish("support", 1)
    with serving(backbone_home) as client:
        service = client.app.state.service
        view = service.catalog.snapshot.adapters["support"]
        measures = {"jaccard_at_10": {"mean": 0.75}, "jaccard_at_50": {"mean": 0.8}, "cka": {"mean": 0.9}}
        view.live.record.metrics["versions"] = {"other": 3, "measures": measures}
        service.probes.show(service.catalog.snapshot)
        text = client.get("/metrics").text
        assert 'driftline_probe_overlap_ratio{adapter="support",k="10",other="3"} 0.75' in text
        assert 'driftline_probe_overlap_ratio{adapter="support",k="50",other="3"} 0.8' in text
        del view.live.record.metrics["versions"]
        service.probes.show(service.catalog.snapshot)
        assert "driftline_probe_overlap_ratio{" not in client.get("/metrics").text
