"""The vector routes over HTTP: the contract, every bad input, and the version that answers."""

import base64

import numpy as np
import pytest

MODEL = "all-MiniLM-L6-v2"
SECRET = "zyxwvut-private"
LONG = f"{SECRET} " * 200


def embed(client, texts, **more):
    body = {"model": MODEL, "input": texts, **more}
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == 200, response.text
    return response


def vectors(response):
    rows = [item["embedding"] for item in response.json()["data"]]
    if isinstance(rows[0], str):
        return np.array([np.frombuffer(base64.b64decode(row), "<f4") for row in rows])
    return np.array(rows, dtype=np.float32)


def test_the_answer_is_openai_s(shared, exact_encoder):
    response = embed(shared, ["the card was declined", "hello"])
    body = response.json()
    assert body["object"] == "list"
    assert [(d["object"], d["index"]) for d in body["data"]] == [("embedding", 0), ("embedding", 1)]
    assert body["model"] == response.headers["x-driftline-version"] == MODEL
    expected = exact_encoder.encode(["the card was declined", "hello"])
    assert body["usage"] == {
        "prompt_tokens": sum(expected.counts),
        "total_tokens": sum(expected.counts),
        "truncated": 0,
    }
    assert np.abs(vectors(response) - expected.vectors).max() < 1e-5
    assert response.headers["content-type"] == "application/json"


def test_float_and_base64_are_bit_for_bit_the_same(shared):
    plain = vectors(embed(shared, ["one", "two"]))
    packed = vectors(embed(shared, ["one", "two"], encoding_format="base64"))
    assert np.array_equal(plain, packed)
    assert np.array_equal(vectors(embed(shared, "one")), plain[:1])


def test_unknown_fields_are_ignored_as_clients_add_their_own(shared):
    assert embed(shared, "x", user="someone", foo={"bar": 1}).status_code == 200


def test_dimensions_cuts_and_renormalises(shared):
    whole, cut = vectors(embed(shared, ["a text"]))[0], vectors(embed(shared, ["a text"], dimensions=64))[0]
    assert cut.shape == (64,)
    assert np.allclose(cut, whole[:64] / np.linalg.norm(whole[:64]), atol=1e-6)
    assert np.array_equal(vectors(embed(shared, ["a text"], dimensions=384))[0], whole)


def test_cutting_is_told(shared):
    response = embed(shared, ["short", LONG, LONG + "more"], truncate=True)
    assert response.json()["usage"] == {"prompt_tokens": 3 + 512, "total_tokens": 515, "truncated": 2}


def test_the_default_may_be_to_cut(serving, backbone_home):
    with serving(backbone_home, truncate=True) as client:
        assert embed(client, [LONG]).json()["usage"]["truncated"] == 1
        refused = client.post("/v1/embeddings", json={"model": MODEL, "input": [LONG], "truncate": False})
        assert refused.status_code == 400


BAD = [
    ("empty list", {"input": []}, 400, "input is an empty list"),
    ("empty string", {"input": ["fine", ""]}, 400, "input[1] is empty"),
    ("white space", {"input": [" \t\n"]}, 400, "input[0] is empty"),
    ("too long", {"input": ["ok", LONG]}, 400, "input[1] has"),
    ("far too long", {"input": [SECRET * 20_000]}, 400, "the limit is 256 tokens"),
    ("no input", {}, 422, "input is required"),
    ("number", {"input": 5}, 422, "must be a string or a list"),
    ("object", {"input": {SECRET: 1}}, 422, "must be a string or a list"),
    ("mixed", {"input": [SECRET, 5.5]}, 422, "input[1] is not one"),
    ("null within", {"input": [SECRET, None]}, 422, "input[1] is not one"),
    ("token ids", {"input": [101, 2054, 102]}, 422, "check_embedding_ctx_length=False"),
    ("token id lists", {"input": [[101, 2054, 102]]}, 422, "check_embedding_ctx_length=False"),
    ("many token ids", {"input": list(range(5000))}, 422, "check_embedding_ctx_length=False"),
    ("too many texts", {"input": [SECRET] * 3000}, 413, "has 3000 texts; the limit is 2048"),
    ("encoding", {"input": "x", "encoding_format": SECRET}, 422, "encoding_format must be"),
    ("dimensions zero", {"input": "x", "dimensions": 0}, 422, "dimensions must be"),
    ("dimensions true", {"input": "x", "dimensions": True}, 422, "dimensions must be"),
    ("dimensions beyond", {"input": "x", "dimensions": 385}, 422, "this model has 384"),
    ("truncate text", {"input": "x", "truncate": "yes"}, 422, "truncate must be"),
    ("user number", {"input": "x", "user": 5}, 422, "user must be"),
    ("model missing", {"input": "x", "model": None}, 422, "model is required"),
    ("model unknown", {"input": "x", "model": "nope"}, 404, "does not exist"),
    ("model nonsense", {"input": "x", "model": f"{SECRET} {SECRET}@x"}, 404, "does not exist"),
    ("version unknown", {"input": "x", "model": "support@99"}, 404, "does not exist"),
    ("version zero", {"input": "x", "model": "support@0"}, 404, "does not exist"),
    ("version of a backbone", {"input": "x", "model": f"{MODEL}@1"}, 404, "does not exist"),
]


@pytest.mark.parametrize(("change", "status", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_has_one_shape_and_never_comes_back(shared, change, status, message):
    response = shared.post("/v1/embeddings", json={"model": MODEL, **change})
    check_problem(response, status)
    assert message in response.json()["detail"]


def check_problem(response, status):
    body = response.json()
    assert response.status_code == body["status"] == status
    assert response.headers["content-type"] == "application/problem+json"
    assert body["type"].startswith("urn:driftline:problem:")
    assert body["title"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] == body["detail"]
    assert SECRET not in response.text


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b'{"model": "m", "input": "zyxwvut-private', 400, "malformed_json"),
        (b'{"model": "m", "input": "\xff\xfe zyxwvut-private"}', 400, "not_utf8"),
        (b'{"model": "m", "input": "\\ud800 zyxwvut-private"}', 400, "malformed_json"),
        (b'["zyxwvut-private"]', 400, "malformed_json"),
        (b"", 400, "malformed_json"),
        (b"[" * 100_000, 400, "malformed_json"),
        (b'{"model":"m","input":"' + b"x" * 10_000_000 + b'"}', 413, "body_too_large"),
    ],
    ids=["cut off", "not utf-8", "lone surrogate", "a list", "nothing", "deep", "10 MB"],
)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/similarity", "/v1/neighbors"])
def test_bodies_that_cannot_be_read(shared, path, content, status, code):
    response = shared.post(path, content=content, headers={"content-type": "application/json"})
    check_problem(response, status)
    assert response.json()["error"]["code"] == code


def test_a_chunked_body_is_counted(shared):
    def chunks():
        for _ in range(160):
            yield b"x" * 65_536

    for path in ("/v1/embeddings", "/admin/alerts", "/admin/retrain"):
        response = shared.post(path, content=chunks(), headers={"content-type": "application/json"})
        check_problem(response, 413)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/zyxwvut-private", 404), ("GET", "/v1/embeddings", 405), ("DELETE", "/v1/models", 405)],
)
def test_what_the_framework_refuses_has_the_same_shape(shared, method, path, status):
    response = shared.request(method, path)
    check_problem(response, status)
    assert status != 405 or response.headers["allow"]


def test_every_answer_carries_a_request_id(shared):
    assert embed(shared, "x").headers["x-request-id"]
    assert shared.get("/nope", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert shared.get("/nope", headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"


def test_adapters_answer_by_name_and_by_version(shared, exact_encoder):
    texts = ["my card was declined", "what now?"]
    base = exact_encoder.encode(texts).vectors
    for model, version in (("support", 2), ("support@2", 2), ("support@1", 1)):
        response = embed(shared, texts, model=model)
        assert response.json()["model"] == response.headers["x-driftline-version"] == f"support@{version}"
        assert np.abs(vectors(response) - shared.heads[version].apply(base)).max() < 1e-5
    assert np.abs(shared.heads[1].apply(base) - shared.heads[2].apply(base)).max() > 0.01


def test_large_requests_use_the_same_head(shared, exact_encoder):
    texts = [f"card number {n}" for n in range(150)]
    expected = shared.heads[2].apply(exact_encoder.encode(texts).vectors)
    assert np.abs(vectors(embed(shared, texts, model="support")) - expected).max() < 1e-5


def test_similarity_of_pairs_and_as_a_matrix(shared):
    a, b = ["my card", "the rate"], ["my card", "a dog in the park"]
    ours = vectors(embed(shared, a, model="support")) @ vectors(embed(shared, b, model="support")).T
    pairs = shared.post("/v1/similarity", json={"model": "support", "a": a, "b": b})
    assert pairs.status_code == 200
    assert np.allclose(pairs.json()["scores"], np.diag(ours), atol=1e-5)
    assert pairs.json()["scores"][0] == pytest.approx(1, abs=1e-5)
    matrix = shared.post("/v1/similarity", json={"model": "support", "a": a, "b": [*b, "x"], "mode": "matrix"})
    assert np.shape(matrix.json()["scores"]) == (2, 3)
    assert np.allclose(np.array(matrix.json()["scores"])[:, :2], ours, atol=1e-5)
    assert matrix.json()["model"] == "support@2"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"a": ["x"], "b": ["y", "z"]}, 422, "needs as many"),
        ({"a": ["x"], "b": ["y"], "mode": "other"}, 422, "mode must be"),
        ({"a": ["x"]}, 422, "b is required"),
        ({"a": ["x"], "b": [""]}, 400, "b[0] is empty"),
        ({"a": ["x"], "b": [LONG]}, 400, "b[0] has"),
        ({"a": ["x"] * 1500, "b": ["y"] * 1500}, 413, "a and b together"),
    ],
)
def test_bad_similarity_requests(shared, body, status, message):
    response = shared.post("/v1/similarity", json={"model": MODEL, **body})
    check_problem(response, status)
    assert message in response.json()["detail"]


def test_neighbours_come_from_the_reference(shared):
    known = "my card was declined please help"
    response = shared.post("/v1/neighbors", json={"model": "support", "input": [known, "giraffes of Kenya"], "k": 3})
    assert response.status_code == 200, response.text
    first, second = response.json()["data"]
    assert len(first["neighbors"]) == 3
    scores = [n["score"] for n in first["neighbors"]]
    assert scores == sorted(scores, reverse=True)
    assert first["neighbors"][0]["label"] == "my card"
    assert first["novelty"] > 0.05 > second["novelty"]
    assert response.headers["x-driftline-version"] == "support@2"


def test_a_version_that_is_not_live_answers_from_its_own_reference_and_does_not_carry_it(shared):
    known = "my card was declined please help"
    response = shared.post("/v1/neighbors", json={"model": "support@1", "input": [known], "k": 1})
    assert response.status_code == 200, response.text
    assert response.headers["x-driftline-version"] == "support@1"
    assert response.json()["data"][0]["neighbors"][0]["label"] == "my card"
    catalog = shared.app.state.service.catalog
    assert [v.reference for v in catalog._pinned.values()] == [None]
    assert len(catalog._references) == 1
    assert catalog.snapshot.adapters["support"].live.reference is not None


def test_large_answers_are_the_same_as_small_ones(shared):
    texts = [f"card {n} was declined" for n in range(160)]
    large = vectors(embed(shared, texts, model="support", dimensions=300))
    assert large.shape == (160, 300)
    assert np.abs(vectors(embed(shared, texts[:3], model="support", dimensions=300)) - large[:3]).max() < 1e-5
    whole = vectors(embed(shared, texts, model="support"))
    matrix = shared.post("/v1/similarity", json={"model": "support", "a": texts, "b": texts, "mode": "matrix"})
    assert np.allclose(matrix.json()["scores"], whole @ whole.T, atol=1e-5)
    near = shared.post("/v1/neighbors", json={"model": "support", "input": texts, "k": 100}).json()["data"]
    assert [item["index"] for item in near] == list(range(160))
    assert {len(item["neighbors"]) for item in near} == {100}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": MODEL, "input": "x"}, 422, "no reference"),
        ({"model": "support", "input": "x", "k": 0}, 422, "k must be"),
        ({"model": "support", "input": "x", "k": 101}, 422, "k must be"),
        ({"model": "support", "input": []}, 400, "empty list"),
        ({"model": "support", "input": ["x"] * 201, "k": 100}, 413, "the limit is 20000"),
    ],
)
def test_bad_neighbour_requests(shared, body, status, message):
    response = shared.post("/v1/neighbors", json=body)
    check_problem(response, status)
    assert message in response.json()["detail"]


def test_overload_and_deadline_over_http(serving, backbone_home):
    with serving(backbone_home, queue_tokens=1, request_seconds=0.3) as client:
        batcher = client.app.state.service.catalog.snapshot.backbones[MODEL].embedder.batcher
        with batcher._lock:
            batcher._waiting += 50_000  # as if others waited
        response = client.post("/v1/embeddings", json={"model": MODEL, "input": "x"})
        check_problem(response, 429)
        assert int(response.headers["retry-after"]) >= 1
        with batcher._lock:
            batcher._waiting -= 50_000
            batcher._stopping = True
            batcher._work.notify_all()
        response = client.post("/v1/embeddings", json={"model": MODEL, "input": "x"})
        check_problem(response, 504)


def test_an_unforeseen_error_is_a_plain_500_without_its_message(shared, monkeypatch, capsys):
    import service.api.vectors as module

    def explode(*_args, **_more):
        raise RuntimeError(f"cannot handle {SECRET}")

    monkeypatch.setattr(module, "embedding_request", explode)
    response = shared.post("/v1/embeddings", json={"model": MODEL, "input": "x"})
    check_problem(response, 500)
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err
    assert "RuntimeError" in printed.out + printed.err
