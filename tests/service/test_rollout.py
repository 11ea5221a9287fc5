"""Rollouts over HTTP: shadows that are promoted or stopped by what traffic shows, canaries, persons, restarts."""

import itertools
import re
import time

import numpy as np
import pytest
from sqlalchemy import select

from registry import rollouts, versions
from registry.tables import EventRecord

PASS = {"outcome": "pass"}
HEADER = "x-driftline-unit"
# Unit vectors that fall onto three directions: what was near is so no longer.
COLLAPSED = (
    np.random.default_rng(4).normal(size=(384, 3)) @ np.random.default_rng(5).normal(size=(3, 384)) / 20
).astype(np.float32) - np.eye(384, dtype=np.float32)
QUICK = {"min_observations": 30, "duration_s": 600}


@pytest.fixture
def texts(topical):
    from tests.service.conftest import TOPICAL

    return TOPICAL


def start(client, version, **rules):
    response = client.post("/admin/adapters/support/rollout", json={"version": version, **QUICK, **rules})
    assert response.status_code == 201, response.text
    return response.json()


def status(client):
    return client.get("/admin/adapters/support/rollout").json()


def until(client, wanted, keep_asking=None, seconds=60):
    """Wait until the rollout is as wanted, with traffic meanwhile."""
    deadline = time.monotonic() + seconds
    while not wanted(found := status(client)):
        assert time.monotonic() < deadline, found
        if keep_asking is not None:
            keep_asking()
        time.sleep(0.02)
    return found


def loaded(client):
    """Wait until the candidate is loaded: from then on answers are compared."""
    service = client.app.state.service
    deadline = time.monotonic() + 30
    while service.rollouts._followed["support"].candidate is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ask(client, text, model="support", user=None, **headers):
    body = {"model": model, "input": text} | ({} if user is None else {"user": user})
    response = client.post("/v1/embeddings", json=body, headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["x-driftline-version"] == response.json()["model"]
    return response.json()["model"], np.array([d["embedding"] for d in response.json()["data"]], dtype=np.float32)


def traffic(client, texts, seed=0):
    rng = np.random.default_rng(seed)
    return lambda: [ask(client, texts[n]) for n in rng.integers(0, len(texts), 10)]


def kinds(publish):
    with publish.registry.reading() as session:
        return [kind for kind in session.scalars(select(EventRecord.kind)) if kind.startswith("rollout.")]


def test_a_shadow_is_promoted_once_traffic_has_shown_enough(client, publish, texts):
    publish("support", 1)
    publish("support", 2, promote=False, verdict=PASS)
    begun = start(client, 2)
    assert (begun["state"], begun["mode"], begun["share"]) == ("running", "shadow", 0.0)
    assert begun["missing"] == ["30 more compared requests"]
    ended = until(client, lambda found: found["state"] != "running", traffic(client, texts))
    assert (ended["state"], ended["reason"], ended["finished_by"]) == ("promoted", "every rule is kept", "rollout")
    counts = ended["counts"]
    assert counts["observations"] == counts["attempts"] >= 30
    assert (counts["served"], counts["failures"]) == (0, 0)
    assert 0 < ended["bounds"]["rows"]["mean"] < ended["bounds"]["rows"]["upper"] < 0.5
    assert sum(ended["novelty"]["candidate"]) == counts["texts"]
    assert ended["latency_ratio"] > 0
    deadline = time.monotonic() + 10
    while ask(client, texts[0])[0] != "support@2":
        assert time.monotonic() < deadline
    assert kinds(publish) == ["rollout.started", "rollout.promoted"]
    metrics = client.get("/metrics").text
    assert 'driftline_rollout_observations_total{adapter="support"}' in metrics
    assert "driftline_rollout_state{" not in metrics  # it has ended


def test_a_candidate_that_disagrees_is_stopped_and_nobody_ever_saw_it(client, publish, texts):
    publish("support", 1)
    publish("support", 2, promote=False, verdict=PASS, weights=COLLAPSED)
    start(client, 2, min_observations=100_000)
    loaded(client)
    answers, turn = [], itertools.cycle(texts)
    ended = until(client, lambda found: found["state"] != "running", lambda: answers.append(ask(client, next(turn))[0]))
    assert ended["state"] == "stopped"
    # A collapsed candidate breaks both rules; which is seen first depends on how many comparisons one look finds.
    assert re.match(r"disagreement of the (nearest items|commonest label): .*the limit is 0\.[25]", ended["reason"])
    assert set(answers) == {"support@1"}
    # Long before 100,000. How long depends on how soon the comparisons, made after the answers, are looked at.
    assert ended["counts"]["observations"] < 5_000
    assert ask(client, texts[0])[0] == "support@1"


def test_a_canary_keeps_a_unit_with_one_version_and_leaves_exact_names_alone(client, publish, texts, exact_encoder):
    heads = {v.name: publish.head(v) for v in (publish("support", 1), publish("support", 2, promote=False))}
    start(client, 2, mode="canary", share=0.4, unit="header", min_observations=100_000)
    loaded(client)
    base = exact_encoder.encode(texts[:4]).vectors
    got = {}
    for turn in range(4):
        for unit in range(30):
            name, vectors = ask(client, texts[:4], **{HEADER: f"index {unit}"})
            assert np.abs(vectors - heads[name].apply(base)).max() < 1e-5
            got.setdefault(unit, set()).add(name)
            if turn == 0:
                assert ask(client, texts[0], model="support@1", **{HEADER: f"index {unit}"})[0] == "support@1"
                assert ask(client, texts[0], model="support@2", **{HEADER: f"index {unit}"})[0] == "support@2"
    assert all(len(names) == 1 for names in got.values())
    assert set.union(*got.values()) == {"support@1", "support@2"}
    assert ask(client, texts[0], user="index 0")[0] == "support@1"  # names no unit
    for path, body in (
        ("/v1/similarity", {"a": [texts[0]], "b": [texts[1]]}),
        ("/v1/neighbors", {"input": [texts[0]], "k": 3}),
    ):
        for unit, names in got.items():
            response = client.post(path, json={"model": "support", **body}, headers={HEADER: f"index {unit}"})
            assert response.status_code == 200
            assert {response.json()["model"], response.headers["x-driftline-version"]} == names
    found = until(client, lambda found: found["counts"]["observations"] >= 100)
    assert found["counts"]["served"] > 0
    assert found["counts"]["failures"] == 0
    assert found["bounds"]["rows"]["mean"] < 0.5
    ended = client.post("/admin/adapters/support/rollout/stop", json={"reason": "enough"}).json()
    assert (ended["state"], ended["reason"], ended["share"]) == ("stopped", "enough", 0.0)
    assert {ask(client, texts[0], **{HEADER: f"index {unit}"})[0] for unit in range(30)} == {"support@1"}


def test_a_canary_by_key_gives_all_requests_of_a_key_to_one_version(client, publish, texts):
    publish("support", 1)
    publish("support", 2, promote=False)
    make = client.post("/admin/keys", json={"name": "root", "scopes": ["admin"]}).json()["secret"]
    client.headers["authorization"] = f"Bearer {make}"
    keys = [client.post("/admin/keys", json={"name": "app", "scopes": ["embed"]}).json()["secret"] for _ in range(16)]
    start(client, 2, mode="canary", share=0.5, min_observations=100_000)
    loaded(client)
    got = [{ask(client, texts[n], user=str(n), authorization=f"Bearer {key}")[0] for n in range(3)} for key in keys]
    assert all(len(names) == 1 for names in got)
    assert set.union(*got) == {"support@1", "support@2"}


def test_a_canary_grows_by_stages_and_is_promoted_at_the_end(client, publish, texts):
    publish("support", 1)
    publish("support", 2, promote=False, verdict=PASS)
    start(client, 2, mode="canary", stages=[0.2, 0.6], unit="user")
    rng = np.random.default_rng(3)
    seen = {}

    def users():
        for user in rng.integers(0, 40, 10).tolist():
            name, _ = ask(client, texts[rng.integers(len(texts))], user=f"user {user}")
            before = seen.get(user)
            assert (before, name) != ("support@2", "support@1")  # nobody goes back
            seen[user] = name

    ended = until(client, lambda found: found["state"] != "running", users)
    assert (ended["state"], ended["stage"]) == ("promoted", 1)
    assert ended["counts"]["observations"] >= 60
    assert ended["counts"]["served"] > 0
    assert kinds(publish) == ["rollout.started", "rollout.advanced", "rollout.promoted"]


@pytest.mark.parametrize(
    ("verdict", "rules", "why"),
    [
        (None, {}, "the gate's verdict is missing"),
        ({"outcome": "inconclusive"}, {}, "the gate's verdict is inconclusive"),
        (PASS, {"on_success": "hold"}, "the rules leave the promotion to a person"),
    ],
)
def test_without_a_passed_gate_a_person_decides(client, publish, texts, verdict, rules, why):
    publish("support", 1)
    publish("support", 2, promote=False, verdict=verdict)
    assert start(client, 2, **rules)["held_by"].startswith(why)
    kept = until(client, lambda found: found["state"] != "running", traffic(client, texts))
    assert kept["state"] == "passed"
    assert kept["reason"].startswith(why)
    assert ask(client, texts[0])[0] == "support@1"
    ended = client.post("/admin/adapters/support/rollout/promote", json={})
    assert ended.status_code == 200
    assert (ended.json()["state"], ended.json()["reason"]) == ("promoted", "promoted by hand")
    assert ask(client, texts[0])[0] == "support@2"
    assert client.post("/admin/adapters/support/rollout/promote", json={}).status_code == 404


def test_a_candidate_that_cannot_be_loaded_stops_the_rollout_and_live_traffic_goes_on(client, publish, texts):
    publish("support", 1)
    publish("support", 2, promote=False, verdict=PASS, break_it=True)
    start(client, 2, mode="canary", share=0.9, unit="user")
    ended = until(client, lambda found: found["state"] != "running", lambda: ask(client, texts[0], user="ann"))
    assert (ended["state"], ended["finished_by"]) == ("stopped", "service")
    assert "support@2 cannot be loaded" in ended["reason"]
    assert ask(client, texts[0], user="ann")[0] == "support@1"


def test_a_candidate_that_fails_is_stopped_and_shadowed_callers_never_notice(client, publish, texts, monkeypatch):
    publish("support", 1)
    publish("support", 2, promote=False, verdict=PASS)
    start(client, 2)
    loaded(client)
    head = client.app.state.service.rollouts._followed["support"].candidate.adapter
    monkeypatch.setattr(head, "_session", None)
    ended = until(client, lambda found: found["state"] != "running", traffic(client, texts))
    assert ended["state"] == "stopped"
    assert ended["reason"].startswith("share of requests that failed")
    assert ended["counts"]["failures"] == ended["counts"]["attempts"] > 0


def test_failures_of_a_canary_are_its_own_and_end_it(client, publish, texts, monkeypatch):
    publish("support", 1)
    publish("support", 2, promote=False, verdict=PASS)
    start(client, 2, mode="canary", share=0.999, unit="user")
    loaded(client)
    head = client.app.state.service.rollouts._followed["support"].candidate.adapter
    monkeypatch.setattr(head, "_session", None)

    def anybody():
        body = {"model": "support", "input": texts[0], "user": "ann"}
        assert client.post("/v1/embeddings", json=body).status_code in (200, 500)
        too_long = {"model": "support", "input": "word " * 5000, "user": "ann"}
        assert client.post("/v1/embeddings", json=too_long).status_code == 400  # the caller's own fault

    ended = until(client, lambda found: found["state"] != "running", anybody)
    assert (ended["state"], ended["counts"]["failures"]) == ("stopped", ended["counts"]["attempts"])
    assert ask(client, texts[0], user="ann")[0] == "support@1"


def test_what_is_wrong_is_refused(client, publish):
    path = "/admin/adapters/support/rollout"
    assert client.get(path).status_code == 404
    publish("support", 1)
    publish("support", 2, promote=False, rejected=True)
    assert client.get(path).status_code == 404
    for body, code in (
        ({"version": 9}, 404),
        ({"version": 1}, 409),
        ({"version": 2}, 409),
        ({"version": 2, "share": 0.5}, 422),
        ({"version": 2, "mode": "dark"}, 422),
        ({"version": 2, "min_observations": 0}, 422),
        ({}, 422),
    ):
        assert client.post(path, json=body).status_code == code, body
    assert client.post(f"{path}/stop", json={}).status_code == 404
    assert client.post(path, json={"version": 2, "force": True}).status_code == 201
    assert client.post(path, json={"version": 2, "force": True}).status_code == 409


def test_another_version_that_goes_live_ends_the_rollout(client, publish, texts):
    publish("support", 1)
    publish("support", 2, promote=False, verdict=PASS)
    publish("support", 3, promote=False)
    start(client, 2, min_observations=100_000)
    loaded(client)
    assert client.post("/admin/adapters/support/promote", json={"version": 3}).status_code == 200
    ended = until(client, lambda found: found["state"] != "running")
    assert ended["state"] == "superseded"
    assert "version 3 went live meanwhile" in ended["reason"]
    assert client.post("/admin/adapters/support/rollout/promote", json={}).status_code == 404
    assert ask(client, texts[0])[0] == "support@3"


def test_counts_of_several_services_add_up_and_outlive_them(serving, backbone_home, publish, texts):
    publish("support", 1)
    publish("support", 2, promote=False, verdict=PASS)
    with serving(backbone_home) as one:
        start(one, 2, min_observations=50)
        with serving(backbone_home) as other:
            for client in (one, other):
                loaded(client)
                for n in range(20):
                    ask(client, texts[n])
            both = until(one, lambda found: found["counts"]["observations"] == 40)
            assert (both["state"], both["processes"]) == ("running", 2)
    with serving(backbone_home) as again:
        assert status(again)["counts"]["observations"] == 40
        ended = until(again, lambda found: found["state"] != "running", traffic(again, texts))
        assert (ended["state"], ended["processes"]) == ("promoted", 3)
        assert ended["counts"]["observations"] >= 50


def test_the_time_is_over_for_a_rollout_without_traffic(client, publish):
    publish("support", 1)
    publish("support", 2, promote=False, verdict=PASS)
    start(client, 2, duration_s=1)
    ended = until(client, lambda found: found["state"] != "running", seconds=20)
    assert ended["reason"] == "the time is over: 30 more compared requests"


def test_a_full_queue_drops_and_what_is_dropped_is_counted(serving, backbone_home, publish, texts):
    publish("support", 1)
    publish("support", 2, promote=False)
    with serving(backbone_home, rollout_queue=16, rollout_rate=0.001) as client:
        start(client, 2, min_observations=100_000)
        loaded(client)
        for _ in range(4):
            ask(client, texts[:40])
        until(client, lambda found: found["counts"]["observations"] == 1)
        assert status(client)["counts"]["texts"] == 16  # of forty, chosen at random
        metrics = client.app.state.service.metrics.registry
        dropped = sum(
            metrics.get_sample_value(
                "driftline_rollout_skipped_requests_total", {"adapter": "support", "reason": reason}
            )
            or 0
            for reason in ("behind", "sampled")
        )
        assert dropped == 3


def test_stored_rules_that_this_program_cannot_read_change_nothing_served(client, publish, texts):
    publish("support", 1)
    publish("support", 2, promote=False)
    with publish.registry.writing() as session:
        rollouts.start(session, "support", 2, rules={"mode": "canary", "of tomorrow": 1}, by="test")
        assert versions.get_adapter(session, "support").live == 1
    client.get("/admin/adapters")
    assert ask(client, texts[0])[0] == "support@1"
    assert client.app.state.service.rollouts.canaries == {}
