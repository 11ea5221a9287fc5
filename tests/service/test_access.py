"""Who may do what: open on loopback without keys, scopes on every route with them."""

import pytest
from typer.testing import CliRunner

from cli.main import app
from registry import keys
from registry.keys import Scope
from service import ServeRefused, Settings, run

MODEL = "all-MiniLM-L6-v2"

# Every operation and the scope it needs, either one where there are two; None is open to all.
# A new route fails the test until it is listed.
SCOPES = {
    ("post", "/v1/embeddings"): "embed",
    ("post", "/v1/similarity"): "embed",
    ("post", "/v1/neighbors"): "embed",
    ("post", "/embeddings"): "embed",
    ("post", "/embed"): "embed",
    ("post", "/"): "embed",
    ("post", "/similarity"): "embed",
    ("post", "/tokenize"): "embed",
    ("post", "/decode"): "embed",
    ("post", "/rerank"): "embed",
    ("post", "/v1/rerank"): "embed",
    ("post", "/v2/rerank"): "embed",
    ("post", "/v2/embed"): "embed",
    ("get", "/health"): None,
    ("get", "/v1/models"): ("embed", "read"),
    ("get", "/v1/models/{model}"): ("embed", "read"),
    ("get", "/info"): ("embed", "read"),
    ("get", "/healthz"): None,
    ("get", "/readyz"): None,
    ("get", "/metrics"): None,
    ("post", "/admin/datasets/{name}"): "train",
    ("get", "/admin/datasets"): "read",
    ("get", "/admin/datasets/{name}"): "read",
    ("post", "/admin/retrain"): "train",
    ("get", "/admin/jobs"): "read",
    ("get", "/admin/jobs/{job_id}"): "read",
    ("get", "/admin/jobs/{job_id}/events"): "read",
    ("post", "/admin/jobs/{job_id}/cancel"): "train",
    ("get", "/admin/adapters"): "read",
    ("get", "/admin/adapters/{name}"): "read",
    ("post", "/admin/adapters/{name}/promote"): "admin",
    ("post", "/admin/adapters/{name}/rollback"): "admin",
    ("get", "/admin/adapters/{name}/versions/{number}/report"): "admin",
    ("get", "/admin/adapters/{name}/versions/{number}/card"): "read",
    ("get", "/admin/adapters/{name}/rollout"): "read",
    ("post", "/admin/adapters/{name}/rollout"): "admin",
    ("post", "/admin/adapters/{name}/rollout/stop"): "admin",
    ("post", "/admin/adapters/{name}/rollout/promote"): "admin",
    ("get", "/admin/drift/{adapter}"): "read",
    ("post", "/admin/drift/{adapter}/acknowledge"): "train",
    ("post", "/admin/alerts"): "train",
    ("post", "/admin/keys"): "admin",
    ("get", "/admin/keys"): "admin",
    ("delete", "/admin/keys/{key_id}"): "admin",
    ("put", "/admin/keys/{key_id}/limits"): "admin",
    ("get", "/admin/audit"): "admin",
    ("get", "/admin/drift/{adapter}/informative"): "admin",
    ("get", "/admin/drift/{adapter}/explanation"): "read",
    ("get", "/admin/drift/{adapter}/examples"): "admin",
    ("get", "/admin/drift/{adapter}/advice"): "read",
    ("delete", "/admin/retained"): "admin",
}


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


def issue(client, name, *scopes, **headers):
    return client.post("/admin/keys", json={"name": name, "scopes": list(scopes)}, headers=headers)


def test_every_route_needs_its_scope_and_no_other(client, monkeypatch):
    monkeypatch.setattr("service.doors.FAILURES", 1_000)  # this client knocks at every route without a key
    admin = issue(client, "root", "admin").json()["secret"]
    secrets = {s: issue(client, s, s, **bearer(admin)).json()["secret"] for s in ("embed", "read", "train")}
    document = client.get("/openapi.json").json()
    found = {(method, path) for path, operations in document["paths"].items() for method in operations}
    assert found == set(SCOPES)
    for (method, path), scope in SCOPES.items():
        security = document["paths"][path][method].get("security")
        either = [scope] if isinstance(scope, str) else scope
        assert security == (None if scope is None else [{"key": list(either)}])
        url = path.replace("{job_id}/events", "job_none/events").replace("{", "").replace("}", "")
        if scope is None:
            assert client.request(method, url).status_code == 200
            continue
        without = client.request(method, url, json={})
        assert without.status_code == 401, path
        assert without.headers["www-authenticate"].startswith("Bearer")
        for held, secret in secrets.items():
            response = client.request(method, url, json={}, headers=bearer(secret))
            if held in either:
                assert response.status_code not in (401, 403), (path, held)
            else:
                assert response.status_code == 403, (path, held)
                assert all(f"'{one}'" in response.json()["detail"] for one in either)
                assert "insufficient_scope" in response.headers["www-authenticate"]


def test_a_key_s_life(client):
    assert client.get("/info").json()["authentication"] is False
    admin = issue(client, "root", "admin")
    assert admin.status_code == 201
    assert admin.headers["cache-control"] == "no-store"
    root = bearer(admin.json()["secret"])
    assert client.get("/info").status_code == 401  # from the first key on, at once
    made = issue(client, "app", "embed", **root).json()
    assert made["secret"].startswith(f"dl_{made['id']}_")
    body = {"model": MODEL, "input": "x"}
    assert client.post("/v1/embeddings", json=body, headers=bearer(made["secret"])).status_code == 200
    for wrong in (made["secret"][:-1] + "x", "dl_none", "", "Bearer"):
        refused = client.post("/v1/embeddings", json=body, headers=bearer(wrong))
        assert refused.status_code == 401
        assert refused.json()["error"]["type"] == "authentication_error"
    assert client.post("/v1/embeddings", json=body, headers={"authorization": "Basic abc"}).status_code == 401
    listed = client.get("/admin/keys", headers=root)
    assert made["secret"] not in listed.text
    assert [k["name"] for k in listed.json()["data"]] == ["root", "app"]
    assert client.delete(f"/admin/keys/{made['id']}", headers=root).json()["revoked_at"]
    assert client.post("/v1/embeddings", json=body, headers=bearer(made["secret"])).status_code == 401
    assert client.delete("/admin/keys/nothing", headers=root).status_code == 404
    service = client.app.state.service
    service.keyring.note_uses(service.registry)
    assert all(k["last_used_at"] for k in client.get("/admin/keys", headers=root).json()["data"])


def test_revoking_the_last_key_does_not_open_the_service(client):
    admin = issue(client, "root", "admin").json()
    client.delete(f"/admin/keys/{admin['id']}", headers=bearer(admin["secret"]))
    assert client.get("/v1/models").status_code == 401


def test_a_key_made_elsewhere_counts_within_the_poll(client, publish):
    import time

    with publish.registry.writing() as session:
        _, secret = keys.issue(session, "cli", [Scope.EMBED])
    deadline = time.monotonic() + 10
    while client.get("/v1/models").status_code != 401:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert client.get("/v1/models", headers=bearer(secret)).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "x", "scopes": ["embed"]}, 422),  # the first one must be able to make others
        ({"name": "x", "scopes": []}, 422),
        ({"name": "x", "scopes": ["everything"]}, 422),
        ({"name": "x" * 100, "scopes": ["admin"]}, 422),
        ({"name": "x", "scopes": ["admin"], "expires_at": "2030-01-01T00:00:00"}, 422),
        ({"name": "x", "scopes": ["admin"], "zyxwvut private": 1}, 422),
        ("nonsense", 422),
    ],
)
def test_keys_that_are_not_made(shared, body, status):
    response = shared.post("/admin/keys", json=body)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert "zyxwvut" not in response.text
    assert shared.get("/admin/keys").json()["data"] == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:8080"}, 403),
        ({"host": ""}, 403),
        ({"host": "localhost:8080"}, 200),
        ({"host": "127.0.0.1:1"}, 200),
        ({"host": "[::1]:8080"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:3000"}, 200),
        ({"forwarded": "for=203.0.113.9"}, 403),
        ({"x-forwarded-for": "203.0.113.9"}, 403),
        ({"x-forwarded-host": "embeddings.example"}, 403),
        ({"x-real-ip": "203.0.113.9"}, 403),
        ({"Via": "1.1 proxy"}, 403),
    ],
)
def test_other_sites_cannot_reach_an_open_service(shared, headers, status):
    assert shared.get("/v1/models", headers=headers).status_code == status


def test_behind_a_proxy_a_key_is_asked_for(client):
    refused = client.get("/v1/models", headers={"x-forwarded-for": "203.0.113.9"})
    assert refused.json()["error"]["code"] == "proxied"
    assert "driftline key create NAME --scope admin" in refused.json()["detail"]
    key = bearer(issue(client, "root", "admin").json()["secret"])
    assert client.get("/v1/models", headers={"x-forwarded-for": "203.0.113.9"}).status_code == 401
    assert client.get("/v1/models", headers={"x-forwarded-for": "203.0.113.9", **key}).status_code == 200


def test_with_keys_any_host_name_is_fine(client):
    secret = issue(client, "root", "admin").json()["secret"]
    assert client.get("/v1/models", headers={"host": "embeddings.example", **bearer(secret)}).status_code == 200


def test_beyond_loopback_a_key_must_exist(backbone_home):
    with pytest.raises(ServeRefused, match="driftline key create NAME --scope admin") as refused:
        run(Settings(data_dir=backbone_home.data_dir, host="0.0.0.0", port=0, worker=False))
    # The command is what the program takes: following the advice opens the way.
    words = next(line for line in str(refused.value).splitlines() if "key create" in line).split("driftline ")[1]
    done = CliRunner().invoke(app, [*words.split(), "--data-dir", str(backbone_home.data_dir)])
    assert done.exit_code == 0, done.output
    registry = backbone_home.registry()
    with registry.reading() as session:
        assert [key.scopes for key in keys.all(session)] == [{Scope.ADMIN}]
    registry.close()


def test_a_port_in_use_is_explained(backbone_home):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ServeRefused, match="already in use"):
            run(Settings(data_dir=backbone_home.data_dir, port=taken.getsockname()[1], worker=False))
