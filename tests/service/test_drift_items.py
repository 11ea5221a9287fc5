"""Kept texts over HTTP: only of keys that allow it, as examples, as a dataset to label, and gone when purged."""

import csv
import io

import pytest

ODD = [f"{animal} {n} eats leaves in {place}" for n in range(4) for animal in ("giraffe", "panda")
       for place in ("Kenya", "China", "Peru")]  # fmt: skip
USUAL = [f"my card {n} was declined" for n in range(12)]


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture
def watched(serving, backbone_home, publish):
    """A service with a watched version; an admin's key, one whose texts are kept, and one whose texts are not."""
    publish("support", 1)
    publish("bare", 2, reference=False)
    with serving(backbone_home, drift_per_request=64) as client:

        def issue(name, scope, headers=None, **more):
            body = {"name": name, "scopes": [scope], **more}
            answer = client.post("/admin/keys", json=body, headers=headers)
            assert answer.status_code == 201, answer.text
            return answer.json()

        admin = bearer(issue("root", "admin")["secret"])
        kept = issue("kept", "embed", admin, retain_texts_days=7)
        plain = issue("plain", "embed", admin)
        yield client, admin, kept, plain


def send(client, key, texts):
    answer = client.post("/v1/embeddings", json={"model": "support", "input": texts}, headers=bearer(key["secret"]))
    assert answer.status_code == 200


def test_texts_are_kept_of_keys_that_allow_it_and_of_no_other(watched):
    client, admin, kept, plain = watched
    send(client, plain, ODD)
    answer = client.get("/admin/drift/support/informative", headers=admin).json()
    assert (answer["kept"], answer["data"]) == (0, [])
    assert "--retain-texts" in answer["why_none"]
    refused = client.get("/admin/drift/support/informative?format=csv", headers=admin)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_texts_kept")
    send(client, kept, USUAL)
    answer = client.get("/admin/drift/support/informative", headers=admin)
    assert answer.headers["cache-control"] == "no-store"
    assert {item["text"] for item in answer.json()["data"]} <= set(USUAL)
    assert answer.json()["kept"] == len(USUAL)


def test_what_is_strange_comes_first_and_goes_straight_into_a_dataset(watched):
    client, admin, kept, _ = watched
    send(client, kept, [*USUAL, *ODD])
    best = client.get("/admin/drift/support/informative?limit=6", headers=admin).json()["data"]
    assert [item["rank"] for item in best] == [1, 2, 3, 4, 5, 6]
    assert best[0]["text"] in ODD
    assert len({item["text"] for item in best} & set(ODD)) >= 4
    assert best[0]["p_value"] < 0.1
    assert all(item["why"] for item in best)
    for kind, media in (("jsonl", "application/x-ndjson"), ("csv", "text/csv")):
        exported = client.get(f"/admin/drift/support/informative?limit=20&format={kind}", headers=admin)
        assert exported.headers["content-disposition"] == f'attachment; filename="support-to-label.{kind}"'
        name = f"label-{kind}"
        body = exported.content
        if kind == "csv":
            rows = list(csv.DictReader(io.StringIO(body.decode())))
            assert set(rows[0]) == {"text", "why"}
            out = io.StringIO()
            writer = csv.DictWriter(out, ["text", "label"])
            writer.writeheader()
            writer.writerows({"text": row["text"], "label": f"new {n % 2}"} for n, row in enumerate(rows))
            body = out.getvalue().encode()
        stored = client.post(f"/admin/datasets/{name}", content=body, headers={**admin, "content-type": media})
        assert stored.status_code == 201, stored.text


def test_examples_show_what_appeared_and_a_purge_deletes_it(watched):
    client, admin, kept, _ = watched
    send(client, kept, [*USUAL, *ODD])
    deadline_texts = set(USUAL) | set(ODD)
    found = client.get("/admin/drift/support/examples?limit=3", headers=admin).json()
    shown = [example["text"] for change in found["changes"] for example in change["examples"]]
    assert shown
    assert set(shown) <= deadline_texts
    told = client.get("/admin/drift/support/explanation", headers=admin)
    assert not any(text in told.text for text in deadline_texts)  # for readers: no texts
    assert client.request("DELETE", "/admin/retained", headers=admin).status_code == 422
    gone = client.request("DELETE", "/admin/retained?adapter=support", headers=admin).json()
    assert gone["deleted"] == len(USUAL) + len(ODD)
    assert client.get("/admin/drift/support/informative", headers=admin).json()["kept"] == 0


def test_bad_questions_get_clear_answers(watched):
    client, admin, *_ = watched
    for path, status in (
        ("support/examples?limit=0", 422), ("support/informative?limit=1001", 422),
        ("support/informative?format=xml", 422),
        ("nothing/explanation", 404), ("bare/explanation", 409), ("bare/informative", 409),
    ):  # fmt: skip
        answer = client.get(f"/admin/drift/{path}", headers=admin)
        assert answer.status_code == status, (path, answer.text)
        assert answer.json()["error"]["code"]
