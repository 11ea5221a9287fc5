"""LoRA adapters through the service: beside heads and the backbone, in shared batches, loaded, dropped, refused."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from encoder.encoder import Encoder
from encoder.lora import PROBES, WEIGHTS, Lora, weights_bytes
from encoder.lora_graph import linear_sites
from encoder.lora_manifest import LoraManifest
from encoder.manifest import FileEntry, Parity
from encoder.probes import Probes
from registry import versions

MODEL = "all-MiniLM-L6-v2"
TEXTS = ["my card was declined", "where is the nearest cash machine, please", "refund", "how do I change my PIN"]


def random_pairs(encoder, fetch, rank, seed):
    """Weights for every query and value module, large enough to move vectors by several degrees."""
    sites = linear_sites(onnx.load_model_from_string(fetch(encoder.manifest.files["model.onnx"].sha256)))
    rng = np.random.default_rng(seed)

    def normal(width):
        return (rng.standard_normal((rank, width)) * 0.04).astype(np.float32)

    return {
        name: (normal(site.width_in), normal(site.width_out))
        for name, site in sites.items()
        if name.endswith(("query", "value"))
    }


@pytest.fixture
def publish_lora(publish, exact_encoder):
    """Publishes LoRA versions into the test's home; the probes come from an encoder of its own."""
    fetch, store = publish.registry.fetch, publish.registry.store
    own = Encoder.open(exact_encoder.digest, fetch, provider="cpu", precision="fp32", threads=1)

    def make(adapter, seed, *, rank=4, wrong_probes=False):
        pairs = random_pairs(exact_encoder, fetch, rank, seed)
        probes = Probes(tuple(TEXTS), own.encode(TEXTS).vectors)  # a placeholder until the adapter has run
        manifest = None
        for _ in range(2):
            files = {WEIGHTS: weights_bytes(pairs), PROBES: probes.to_bytes()}
            for data in files.values():
                store(data)
            manifest = LoraManifest(
                backbone=exact_encoder.digest, dimension=384, rank=rank,
                files={name: FileEntry.of(data) for name, data in files.items()},
                parity=Parity(len(TEXTS), 0.0, 1.0), recipe={}, dataset={}, metrics={},
                parent=None, job=None, versions={},
            )  # fmt: skip
            store(manifest.to_bytes())
            lora = Lora.open(manifest.digest, fetch)
            tokens = own.tokenizer.encode(TEXTS)
            vectors = own.forward_adapted(tokens.ids, [lora] * len(TEXTS))
            if wrong_probes:
                break
            probes = Probes(tuple(TEXTS), vectors)
        with publish.registry.writing() as session:
            versions.ensure_adapter(session, adapter, exact_encoder.digest)
            version = versions.publish(
                session, adapter=adapter, digest=manifest.digest, kind="lora", backbone=exact_encoder.digest,
                reference=None, parent=None, job_id=None, dataset="imported", metrics={}, verdict=None, rejected=False,
            )  # fmt: skip
            version = versions.promote(session, adapter, version.number, by="test")
        return version, vectors

    return make


def ask(client, model, texts):
    response = client.post("/v1/embeddings", json={"model": model, "input": texts})
    assert response.status_code == 200, response.text
    return np.array([item["embedding"] for item in response.json()["data"]], dtype=np.float32), response


def test_a_lora_version_answers_as_it_was_proven_and_unlike_the_backbone(publish_lora, backbone_home, serving):
    version, expected = publish_lora("style", 1)
    with serving(backbone_home) as client:
        found, response = ask(client, "style", TEXTS)
        assert response.headers["x-driftline-version"] == version.name
        assert np.abs(found - expected).max() < 1e-5
        base, _ = ask(client, MODEL, TEXTS)
        assert (found * base).sum(axis=1).max() < 0.999
        kinds = {entry["id"]: entry["kind"] for entry in client.get("/v1/models").json()["data"]}
        assert kinds["style@1"] == "lora"
        again, _ = ask(client, "style", TEXTS)  # from the cache, which keeps the adapter's vectors apart
        assert np.array_equal(again, found)
        assert np.array_equal(ask(client, MODEL, TEXTS)[0], base)


def test_base_head_and_lora_rows_share_batches_and_keep_apart(publish, publish_lora, backbone_home, serving):
    head = publish("support", 7)
    expected = {name: publish_lora(name, seed, rank=rank)[1] for name, seed, rank in [("a", 1, 4), ("b", 2, 8)]}
    with serving(backbone_home, cache_bytes=0) as client:
        batcher = client.app.state.service.catalog.snapshot.backbones[MODEL].embedder.batcher
        runtime = batcher._runtime
        seen, real = [], runtime.prepare

        def noted(flights):
            seen.append({None if f.adapter is None else f.adapter.digest for f in flights})
            return real(flights)

        runtime.prepare = noted
        base, _ = ask(client, MODEL, TEXTS)
        expected |= {MODEL: base, "support": publish.head(head).apply(base)}
        start = threading.Barrier(8)

        def work(number):
            name = list(expected)[number % 4]
            start.wait()
            for _ in range(12):
                assert np.abs(ask(client, name, TEXTS)[0] - expected[name]).max() < 2e-5, name

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert max(map(len, seen)) > 1  # texts of several adapters did run together


def test_a_lora_version_that_does_not_reproduce_its_probes_is_not_served(publish_lora, backbone_home, serving):
    publish_lora("broken", 3, wrong_probes=True)
    with serving(backbone_home) as client:
        refused = client.post("/v1/embeddings", json={"model": "broken", "input": "x"})
        assert refused.status_code == 503
        ask(client, MODEL, TEXTS)


def test_lora_adapters_come_and_go_while_they_are_used(publish_lora, backbone_home, serving):
    expected = {f"l{n}": publish_lora(f"l{n}", 10 + n)[1] for n in range(4)}
    with serving(backbone_home, resident_adapters=1, cache_bytes=0) as client:

        def work(number):
            for turn in range(6):
                name = f"l{(number + turn) % 4}"
                assert np.abs(ask(client, name, TEXTS[:2])[0] - expected[name][:2]).max() < 2e-5

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))


def test_a_promotion_from_head_to_lora_and_back(publish, publish_lora, backbone_home, serving):
    publish("mixed", 5)
    _, expected = publish_lora("mixed", 6)
    with serving(backbone_home) as client:
        assert np.abs(ask(client, "mixed", TEXTS)[0] - expected).max() < 1e-5
        assert client.post("/admin/adapters/mixed/rollback").status_code == 200
        found, response = ask(client, "mixed", TEXTS)
        assert response.headers["x-driftline-version"] == "mixed@1"
        assert np.abs(found - expected).max() > 1e-3


def test_a_rollout_between_a_head_and_a_lora_runs_the_backbone_for_the_other_one(client, publish, publish_lora):
    """The one that did not answer is computed on an empty queue, whichever of the two it is."""
    publish("support", 1)
    lora, _ = publish_lora("support", 3)
    path = "/admin/adapters/support"
    assert client.post(f"{path}/promote", json={"version": 1}).status_code == 200
    for candidate, live in ((lora.number, 1), (1, lora.number)):
        rules = {"version": candidate, "min_observations": 100_000, "mode": "canary", "share": 0.5, "unit": "user"}
        assert client.post(f"{path}/rollout", json=rules).status_code == 201
        deadline = time.monotonic() + 60
        turn = 0
        found = {}
        while found.get("timed", 0) < 5 or not found["served"] or found["observations"] < 15:
            assert time.monotonic() < deadline, found
            body = {"model": "support", "input": [f"request {candidate} {turn}"], "user": f"user {turn % 20}"}
            assert client.post("/v1/embeddings", json=body).json()["model"] in ("support@1", f"support@{lora.number}")
            turn += 1
            found = client.get(f"{path}/rollout").json()["counts"]
        assert found["failures"] == 0
        assert client.post(f"{path}/rollout/stop", json={}).json()["champion"] == f"support@{live}"
        assert client.post(f"{path}/promote", json={"version": candidate}).status_code == 200


def test_the_canary_encodes_the_probes_of_a_lora(serving, backbone_home, publish_lora, exact_encoder, monkeypatch):
    publish_lora("legal", 1)
    with serving(backbone_home, drift_probe_seconds=3600) as client:
        probes = client.app.state.service.probes
        client.portal.call(probes.look)
        assert probes.warnings == {}
        real = exact_encoder.session.compute
        monkeypatch.setattr(exact_encoder.session, "compute", lambda batch, rows: real(batch, rows) + np.float32(0.01))
        client.portal.call(probes.look)
        assert {"legal@1", MODEL} == set(probes.warnings)
        assert 'driftline_probe_difference{adapter="legal"} 0.01' in client.get("/metrics").text
