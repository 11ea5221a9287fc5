"""Every admin route that changes something leaves an event that says who, what and when, and nothing secret."""

import json
import time
from datetime import UTC, datetime, timedelta

MARK = "MARKED text of a user"
ROWS = b"text,label\n" + b"".join(b"%b %d,%d\n" % (MARK.encode(), n, n % 2) for n in range(8))
ODD = [f"{animal} {n} eats leaves in {place}" for n in range(8) for animal in ("giraffe", "panda")
       for place in ("Kenya", "China", "Peru", "Chad")]  # fmt: skip
CSV = {"content-type": "text/csv"}


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


def drift(call):
    """Send what the monitor has never seen until its alarm stands."""
    call("POST", "/v1/embeddings", json={"model": "support", "input": ODD})
    deadline = time.monotonic() + 20
    while not call("GET", "/admin/drift/support").json()["alarm_active"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alert(adapter="fresh"):
    labels = {"alertname": "Drift", "adapter": adapter, "text": MARK}
    return {"alerts": [{"status": "firing", "labels": labels, "startsAt": "2026-01-01T00:00:00Z"}]}


def steps(call, state):
    """What is done on each route, in an order in which each succeeds: (method, route) -> (kinds of events, request).

    A route that is missing here, or whose event is, fails the test.
    """
    reason = {"reason": "because"}
    rollout = {"version": 3, "mode": "shadow"}
    retrain = {"adapter": "support", "dataset": "rows", "reason": "because"}
    yield (
        ("post", "/admin/datasets/{name}"),
        "dataset.added",
        lambda: call("POST", "/admin/datasets/rows", content=ROWS, headers=CSV),
    )
    yield (
        ("post", "/admin/retrain"),
        "job.queued",
        lambda: state.update(job=call("POST", "/admin/retrain", json=retrain).json()["job_id"]),
    )
    yield (
        ("post", "/admin/jobs/{job_id}/cancel"),
        "job.finished",
        lambda: call("POST", f"/admin/jobs/{state['job']}/cancel"),
    )
    yield ("post", "/admin/alerts"), "alert.claimed", lambda: call("POST", "/admin/alerts", json=alert("support"))
    yield (
        ("post", "/admin/adapters/{name}/promote"),
        "version.promoted",
        lambda: call("POST", "/admin/adapters/support/promote", json={"version": 1}),
    )
    yield (
        ("post", "/admin/adapters/{name}/rollback"),
        "version.rolled_back",
        lambda: call("POST", "/admin/adapters/support/rollback"),
    )
    yield ("post", "/admin/drift/{adapter}/acknowledge"), "drift.acknowledged", lambda: (
        drift(call), call("POST", "/admin/drift/support/acknowledge"),
    )  # fmt: skip
    yield (
        ("post", "/admin/adapters/{name}/rollout"),
        "rollout.started",
        lambda: call("POST", "/admin/adapters/support/rollout", json=rollout),
    )
    yield (
        ("post", "/admin/adapters/{name}/rollout/stop"),
        "rollout.stopped",
        lambda: call("POST", "/admin/adapters/support/rollout/stop", json=reason),
    )
    yield (
        ("post", "/admin/adapters/{name}/rollout/promote"),
        "rollout.promoted",
        lambda: (
            call("POST", "/admin/adapters/support/rollout", json=rollout),
            call("POST", "/admin/adapters/support/rollout/promote", json=reason),
        ),
    )
    yield (
        ("post", "/admin/keys"),
        "key.issued",
        lambda: state.update(key=call("POST", "/admin/keys", json={"name": "app", "scopes": ["embed"]}).json()),
    )
    yield (
        ("put", "/admin/keys/{key_id}/limits"),
        "key.limited",
        lambda: call("PUT", f"/admin/keys/{state['key']['id']}/limits", json={"texts_per_day": 5}),
    )
    yield ("delete", "/admin/keys/{key_id}"), "key.revoked", lambda: call("DELETE", f"/admin/keys/{state['key']['id']}")
    yield ("delete", "/admin/retained"), "texts.purged", lambda: call("DELETE", "/admin/retained?adapter=support")


def test_every_route_that_changes_something_leaves_an_event_with_who_and_what(serving, backbone_home, publish):
    for seed in (1, 2, 3):
        publish("support", seed, promote=seed < 3)
    with publish.registry.writing() as session:
        from registry import keys

        _, root = keys.issue(session, "ann", [keys.Scope.ADMIN])
    settings = {"drift_window": 64, "drift_arl": 10_000, "drift_per_request": 64, "alerts_need_effect": False}
    with serving(backbone_home, **settings) as client:

        def call(method, path, **more):
            answer = client.request(method, path, **{**more, "headers": {**bearer(root), **more.get("headers", {})}})
            assert answer.status_code < 300, (path, answer.text)
            return answer

        document = client.get("/openapi.json").json()
        changing = {
            (method, path)
            for path, operations in document["paths"].items()
            for method in operations
            if path.startswith("/admin/") and method not in ("get", "head", "options")
        }
        state, walked = {}, set()
        for route, kind, act in steps(call, state):
            last = call("GET", "/admin/audit?limit=1").json()["data"][0]["id"]
            begun = datetime.now(UTC) - timedelta(seconds=1)
            act()
            events = call("GET", f"/admin/audit?after={last}&limit=500").json()["data"]
            mine = [e for e in events if e["kind"] == kind]
            assert mine, (route, events)
            assert {e["actor"] for e in mine} == {"ann"}, (route, mine)
            assert all(e["subject"] and begun <= datetime.fromisoformat(e["at"]) for e in mine)
            walked.add(route)
        assert walked == changing
        everything = json.dumps(call("GET", "/admin/audit?limit=500").json())
        assert root not in everything
        assert state["key"]["secret"] not in everything
        assert MARK not in everything
        assert "Kenya" not in everything


def test_the_journal_is_paged_and_filtered_and_wrong_questions_are_refused(client, backbone_home):
    registry = client.app.state.service.registry
    from registry import events

    with registry.writing() as session:
        for number in range(7):
            events.record(session, "test.even" if number % 2 == 0 else "testing", f"s{number}", f"a{number % 3}")

    def ask(**query):
        answer = client.get("/admin/audit", params=query)
        assert answer.status_code == 200, answer.text
        return [event["subject"] for event in answer.json()["data"]]

    newest = client.get("/admin/audit?limit=3").json()["data"]
    assert [e["subject"] for e in newest] == ["s6", "s5", "s4"]
    assert ask(before=newest[-1]["id"], limit=2) == ["s3", "s2"]
    assert ask(after=newest[-1]["id"]) == ["s5", "s6"]
    assert ask(kind="test") == ["s6", "s4", "s2", "s0"]  # the group, and not what begins alike
    assert ask(kind="test.even", actor="a0") == ["s6", "s0"]
    assert ask(subject="s3") == ["s3"]
    assert ask(kind="te%") == []
    assert ask(actor="\x00") == []
    assert ask(since="2999-01-01T00:00:00Z") == []
    assert len(ask(since="1970-01-02T00:00:00+14:00", limit=500)) >= 7
    for wrong in (
        {"limit": 0}, {"limit": 501}, {"before": -1}, {"after": 2**63}, {"before": 1, "after": 1},
        {"since": "2026-01-01T00:00:00"}, {"since": "0001-01-01T00:00:00+14:00"},
        {"since": "9999-12-31T23:59:59-14:00"},
    ):  # fmt: skip
        assert client.get("/admin/audit", params=wrong).status_code == 422, wrong
