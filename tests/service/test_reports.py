"""The stored report and model card over HTTP: who may read them, what guards the page, and what is never served."""

import json
import subprocess
import sys

import pytest

from registry import versions
from registry.version_reports import Document, fetch_document

PAGE = b'<!doctype html><meta name="generator" content="driftline.report/1"><p>&lt;script&gt;</p>'
CARD = json.dumps({"schema": "driftline.model_card/1", "library_name": "driftline"}).encode()


def published(publish, *, job="job_1", **digests):
    """A version of `support` whose metrics name these documents."""
    first = publish("support", 1)
    with publish.registry.writing() as session:
        return versions.publish(
            session, adapter="support", digest=first.digest, kind="head", backbone=first.backbone,
            reference=first.reference, parent=1, job_id=job, dataset="support@1", metrics=digests, verdict=None,
            rejected=False,
        )  # fmt: skip


def stored(publish, **more):
    store = publish.registry.store
    return published(publish, report=store(PAGE), card=store(CARD), **more)


def test_the_page_is_served_behind_a_strict_policy(client, publish):
    version = stored(publish)
    answer = client.get(f"/admin/adapters/support/versions/{version.number}/report")
    assert (answer.status_code, answer.content) == (200, PAGE)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert "script" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "private, no-store"


def test_the_card_is_served_as_json(client, publish):
    version = stored(publish)
    answer = client.get(f"/admin/adapters/support/versions/{version.number}/card")
    assert (answer.status_code, answer.content) == (200, CARD)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("what", ["report", "card"])
@pytest.mark.parametrize("path", ["support/versions/1", "support/versions/99", "nothing/versions/1"])
def test_a_version_without_documents_has_none(client, publish, path, what):
    publish("support", 1)
    answer = client.get(f"/admin/adapters/{path}/{what}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_numbers_outside_of_any_range(client, publish):
    publish("support", 1)
    assert client.get("/admin/adapters/support/versions/0/report").status_code == 422
    assert client.get("/admin/adapters/support/versions/x/card").status_code == 422
    assert client.get(f"/admin/adapters/support/versions/{10**30}/card").status_code == 404


def test_what_an_imported_manifest_names_is_not_served(client, publish):
    secret = publish.registry.store(b'{"text": "a row", "note": "driftline.model_card/1"}')
    version = published(publish, job=None, report=secret, card=secret)
    for what in ("report", "card"):
        assert client.get(f"/admin/adapters/support/versions/{version.number}/{what}").status_code == 404


def test_a_digest_of_something_else_is_refused(client, publish):
    rows = publish.registry.store(b'{"text": "a row of a dataset"}\n')
    version = published(publish, report=rows, card=rows)
    for what in ("report", "card"):
        answer = client.get(f"/admin/adapters/support/versions/{version.number}/{what}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "artifact_unusable")
        assert "a row" not in answer.text
    missing = published(publish, job="job_2", report="0" * 64, card=7)
    assert client.get(f"/admin/adapters/support/versions/{missing.number}/report").status_code == 409
    assert client.get(f"/admin/adapters/support/versions/{missing.number}/card").status_code == 404


def test_the_page_takes_admin_and_the_card_takes_read(client, publish):
    version = stored(publish)
    made = client.post("/admin/keys", json={"name": "root", "scopes": ["admin"]}).json()
    root = {"Authorization": f"Bearer {made['secret']}"}
    keys = {
        scope: client.post("/admin/keys", json={"name": scope, "scopes": [scope]}, headers=root).json()["secret"]
        for scope in ("read", "embed", "train")
    }

    def status(what, scope):
        url = f"/admin/adapters/support/versions/{version.number}/{what}"
        return client.get(url, headers={"Authorization": f"Bearer {keys[scope]}"}).status_code

    assert [status("report", scope) for scope in ("read", "embed", "train")] == [403, 403, 403]
    assert [status("card", scope) for scope in ("read", "embed")] == [200, 403]
    url = f"/admin/adapters/support/versions/{version.number}"
    assert client.get(f"{url}/report", headers=root).status_code == 200
    assert client.get(f"{url}/report").status_code == 401
    assert client.get(f"{url}/card").status_code == 401


def test_a_name_alone_means_the_live_version(publish):
    version = stored(publish)
    with publish.registry.writing() as session:
        versions.promote(session, "support", version.number, by="test")
    found = fetch_document(publish.registry, "support", None, Document.CARD)
    assert (found.version.number, found.data) == (version.number, CARD)


def test_the_serving_process_never_loads_what_draws():
    code = "import service.app, sys; print(sorted({'matplotlib', 'jinja2', 'PIL'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
