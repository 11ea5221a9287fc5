"""The routes of Text Embeddings Inference: shapes, models, prompts, statuses and its flat refusals."""

import base64

import jsonschema
import numpy as np
import pytest

from service.errors import EncodeFailed, Overloaded

MODEL = "all-MiniLM-L6-v2"
SECRET = "zyxwvut-private"
LONG = f"{SECRET} " * 200
TEXTS = ["my card was declined", "what is the exchange rate?", "hello"]


@pytest.fixture(scope="module")
def tei(both):
    with both() as client:
        yield client


def embed(client, texts=TEXTS, *, path="/embed", **more):
    response = client.post(path, json={"inputs": texts, **more})
    assert response.status_code == 200, response.text
    return np.array(response.json(), dtype=np.float32)


def test_embed_answers_a_bare_list_of_vectors(tei, exact_encoder):
    expected = exact_encoder.encode(TEXTS)
    assert np.abs(embed(tei) - expected.vectors).max() < 1e-5
    assert np.abs(embed(tei, path="/") - expected.vectors).max() < 1e-5
    assert embed(tei, "hello", normalize=True, truncate=None, truncation_direction="Right").shape == (1, 384)
    response = tei.post("/embed", json={"inputs": TEXTS})
    assert response.headers["x-compute-tokens"] == str(sum(expected.counts))
    assert response.headers["x-driftline-version"] == MODEL


def test_many_texts_are_the_same_as_few(tei):
    texts = [f"card {n} was declined" for n in range(120)]
    assert np.abs(embed(tei, texts, dimensions=300)[:3] - embed(tei, texts[:3], dimensions=300)).max() < 1e-5


def test_dimensions_cuts_and_renormalises(tei):
    whole, cut = embed(tei, "a text")[0], embed(tei, "a text", dimensions=64)[0]
    assert np.allclose(cut, whole[:64] / np.linalg.norm(whole[:64]), atol=1e-6)
    assert np.array_equal(embed(tei, "a text", dimensions=384)[0], whole)


def test_similarity_is_the_cosine_with_the_source(tei, exact_encoder):
    source, *others = exact_encoder.encode(TEXTS).vectors
    body = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}, "parameters": {"truncate": True}}
    response = tei.post("/similarity", json=body)
    assert response.status_code == 200, response.text
    assert np.allclose(response.json(), np.array(others) @ source, atol=1e-5)
    del body["parameters"]
    body["inputs"]["sentences"] = [TEXTS[0]]
    assert tei.post("/similarity", json=body).json() == [pytest.approx(1, abs=1e-6)]


@pytest.mark.parametrize(
    ("path", "more", "headers"),
    [
        ("/embed", {"model": "support"}, {}),
        ("/embed?model=support@1", {}, {}),
        ("/embed", {}, {"x-driftline-model": "support"}),
        ("/embed?model=unknown", {"model": "support"}, {}),
    ],
)
def test_the_model_is_named_in_three_ways(tei, path, more, headers):
    response = tei.post(path, json={"inputs": TEXTS, **more}, headers=headers)
    assert response.headers["x-driftline-version"] == "support@1"
    assert np.abs(np.array(response.json()) - embed(tei)).max() > 0.01


def test_without_a_model_the_setting_decides(both):
    with both(tei_model="support", truncate=True) as client:
        assert client.post("/embed", json={"inputs": TEXTS}).headers["x-driftline-version"] == "support@1"
        info = client.get("/info").json()
        assert (info["model_id"], info["auto_truncate"]) == ("support", True)
        version = next(m for m in client.get("/v1/models").json()["data"] if m["id"] == "support@1")
        assert info["model_sha"] == version["digest"]
        assert client.post("/embed", json={"inputs": LONG}).status_code == 200  # truncate follows the setting
        assert client.post("/embed", json={"inputs": LONG, "truncate": False}).status_code == 422
        assert client.post("/rerank", json={"query": "x", "texts": [LONG]}).status_code == 200
        left = {"inputs": "short", "truncation_direction": "left"}
        assert client.post("/embed", json=left).status_code == 422


def test_info_has_tei_s_fields_and_ours(tei):
    info = tei.get("/info").json()
    backbone = info["backbones"][0]
    assert (info["model_id"], info["served_model_name"], info["model_sha"]) == (MODEL, MODEL, backbone["digest"])
    assert (info["model_dtype"], info["model_type"]) == ("float32", {"embedding": {"pooling": "mean"}})
    assert (info["max_input_length"], info["max_client_batch_size"]) == (256, info["limits"]["max_inputs"])
    assert info["auto_truncate"] is False
    for name in ("max_concurrent_requests", "max_batch_tokens", "tokenization_workers"):
        assert type(info[name]) is int
        assert info[name] > 0
    assert info["version"]
    assert {"sha", "docker_label", "max_batch_requests"} <= info.keys()


def test_health_is_readiness(tei):
    response = tei.get("/health")
    assert (response.status_code, response.content) == (200, b"")
    tei.app.state.service.draining = True
    try:
        stopping = tei.get("/health")
    finally:
        tei.app.state.service.draining = False
    assert (stopping.status_code, stopping.json()["error_type"]) == (503, "Unhealthy")
    assert stopping.headers["retry-after"]


def test_tokens_there_and_back(tei, exact_encoder):
    text = "Die Karte wurde abgelehnt: naïve 火 text"
    pieces, short = tei.post("/tokenize", json={"inputs": [text, "x"]}).json()
    assert len(short) == 3
    assert [p["id"] for p in pieces] == exact_encoder.tokenizer.encode([text]).ids[0]
    assert [(p["text"], p["special"], p["start"]) for p in (pieces[0], pieces[-1])] == [
        ("[CLS]", True, None),
        ("[SEP]", True, None),
    ]
    assert all(p["text"] == text[p["start"] : p["stop"]] for p in pieces[1:-1])
    bare = tei.post("/tokenize", json={"inputs": text, "add_special_tokens": False}).json()[0]
    assert bare == pieces[1:-1]
    ids = [p["id"] for p in short]
    assert tei.post("/decode", json={"ids": ids}).json() == ["x"]
    assert tei.post("/decode", json={"ids": [ids, ids], "skip_special_tokens": False}).json() == ["[CLS] x [SEP]"] * 2
    with_prompt = tei.post("/tokenize", json={"inputs": "x", "model": "prompted", "prompt_name": "query"}).json()[0]
    assert [p["text"] for p in with_prompt] == ["[CLS]", "query", ":", "x", "[SEP]"]


def test_prompts_go_in_front_of_the_text_and_are_counted(tei, exact_encoder):
    expected = exact_encoder.encode([f"query: {t}" for t in TEXTS])
    response = tei.post("/embed", json={"inputs": TEXTS, "model": "prompted", "prompt_name": "query"})
    assert np.abs(np.array(response.json()) - expected.vectors).max() < 1e-5
    assert response.headers["x-compute-tokens"] == str(sum(expected.counts))
    plain = exact_encoder.encode(TEXTS).vectors
    assert np.abs(embed(tei, model="prompted") - plain).max() < 1e-5
    assert np.abs(embed(tei, model="prompted", prompt_name="empty") - plain).max() < 1e-5
    body = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}, "parameters": {"prompt_name": "query"}}
    scores = tei.post("/similarity", json={**body, "model": "prompted"}).json()
    assert np.allclose(scores, expected.vectors[1:] @ expected.vectors[0], atol=1e-5)


@pytest.mark.parametrize(
    ("more", "prompt"),
    [
        ({"prompt_name": "passage"}, "passage: "),
        ({"input_type": "search_query"}, "query: "),
        ({"input_type": "search_document"}, "passage: "),
        ({"input_type": "passage"}, "passage: "),
        ({"task": "retrieval.query"}, "query: "),
        ({"task": "retrieval.passage"}, "passage: "),
        ({"task": "separation"}, ""),  # a purpose that the backbone has no prompt for
        ({"prompt_name": "passage", "input_type": "query"}, "passage: "),
    ],
)
def test_openai_s_route_takes_prompts_of_all_dialects(tei, exact_encoder, more, prompt):
    expected = exact_encoder.encode([prompt + "my card"])
    body = tei.post("/v1/embeddings", json={"model": "prompted", "input": "my card", **more}).json()
    assert np.abs(np.array(body["data"][0]["embedding"]) - expected.vectors[0]).max() < 1e-5
    assert body["usage"]["prompt_tokens"] == expected.counts[0]


def test_a_text_with_a_prompt_and_one_that_begins_like_it_are_one_text_to_the_cache(tei):
    cache = tei.app.state.service.cache
    embed(tei, "query: a text of the cache's own", model="prompted")
    hits = cache.hits
    embed(tei, "a text of the cache's own", model="prompted", prompt_name="query")
    assert cache.hits == hits + 1


def test_the_default_prompt_is_for_requests_that_name_none(both, exact_encoder):
    with both(default_prompt_name="query") as client:
        expected = exact_encoder.encode([f"query: {t}" for t in TEXTS]).vectors
        assert np.abs(embed(client, model="prompted") - expected).max() < 1e-5
        assert np.abs(embed(client) - exact_encoder.encode(TEXTS).vectors).max() < 1e-5  # MiniLM has no such prompt
        pairs = {"model": "prompted", "a": ["my card"], "b": ["a dog"]}
        a, b = exact_encoder.encode(["query: my card", "query: a dog"]).vectors
        assert client.post("/v1/similarity", json=pairs).json()["scores"] == [pytest.approx(a @ b, abs=1e-5)]


def test_an_unknown_prompt_is_refused_with_the_known_ones(tei):
    body = {"inputs": "x", "prompt_name": "unknown"}
    refused = tei.post("/embed", json={**body, "model": "prompted"})
    assert refused.status_code == 422
    assert refused.json()["error"] == "prompt_name is not known: this model has empty, passage, query."
    assert "no prompts" in tei.post("/embed", json=body).json()["error"]
    ours = tei.post("/v1/embeddings", json={"model": "prompted", "input": "x", "prompt_name": "unknown"})
    assert (ours.status_code, ours.json()["error"]["param"]) == (422, "prompt_name")


@pytest.mark.parametrize(
    ("body", "status", "kind", "says"),
    [
        ({"inputs": []}, 400, "Empty", "empty list"),
        ({"inputs": ["fine", " "]}, 400, "Empty", "inputs[1] is empty"),
        ({}, 422, "Validation", "inputs is required"),
        ({"inputs": 5}, 422, "Validation", "inputs must be"),
        ({"inputs": [[1, 2]]}, 422, "Tokenizer", "token ids"),
        ({"inputs": ["fine", LONG]}, 422, "Validation", "inputs[1] has"),
        ({"inputs": ["x"] * 2049}, 422, "Validation", "the limit is 2048"),
        ({"inputs": "x", "dimensions": 385}, 422, "Validation", "this model has 384"),
        ({"inputs": "x", "dimensions": 0}, 422, "Validation", "dimensions must be"),
        ({"inputs": "x", "normalize": False}, 422, "Validation", "unit length"),
        ({"inputs": "x", "normalize": "no"}, 422, "Validation", "normalize must be"),
        ({"inputs": "x", "truncate": True, "truncation_direction": "left"}, 422, "Validation", "only its end"),
        ({"inputs": "x", "truncation_direction": "up"}, 422, "Validation", "truncation_direction must be"),
        ({"inputs": "x", "model": "unknown"}, 404, "Validation", "does not exist"),
        ({"inputs": "x", "model": 5}, 422, "Validation", "model must be"),
        ({"inputs": "x", "prompt_name": 5}, 422, "Validation", "prompt_name must be"),
    ],
)
def test_refusals_are_tei_s(tei, body, status, kind, says):
    check_flat(tei.post("/embed", json=body), status, kind, says)


def check_flat(response, status, kind, says):
    body = response.json()
    assert response.status_code == body["status"] == status, body
    assert response.headers["content-type"] == "application/json"
    assert body["error"] == body["detail"]
    assert says in body["error"]
    assert body["error_type"] == kind
    assert SECRET not in response.text
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/similarity", {"inputs": "x"}, 422, "must be an object"),
        ("/similarity", {"inputs": {"source_sentence": "x"}}, 422, "sentences is required"),
        ("/similarity", {"inputs": {"source_sentence": LONG, "sentences": ["x"]}}, 422, "source_sentence has"),
        ("/similarity", {"inputs": {"source_sentence": "x", "sentences": ["x", LONG]}}, 422, "sentences[1] has"),
        ("/similarity", {"inputs": {"source_sentence": "", "sentences": ["x"]}}, 400, "source_sentence is empty"),
        ("/similarity", {"inputs": {"source_sentence": "x", "sentences": ["x"]}, "parameters": 1}, 422, "parameters"),
        ("/tokenize", {"inputs": SECRET * 10_000}, 422, "inputs[0] has"),
        ("/tokenize", {"inputs": "x", "add_special_tokens": 1}, 422, "add_special_tokens must be"),
        ("/decode", {"ids": []}, 422, "ids is required"),
        ("/decode", {"ids": [1, "x"]}, 422, "integers only"),
        ("/decode", {"ids": [-1]}, 422, "a token id is not from 0 to 30521"),
        ("/decode", {"ids": [10**9]}, 422, "a token id is not"),
        ("/decode", {"ids": [1] * 300_001}, 422, "the limit is 300000"),
    ],
)
def test_refusals_of_the_other_routes(tei, path, body, status, says):
    check_flat(tei.post(path, json=body), status, "Empty" if status == 400 else "Validation", says)


def test_what_never_reaches_the_route_is_flat_too(tei):
    json = {"content-type": "application/json"}
    check_flat(tei.post("/embed", content=b"{", headers=json), 400, "Validation", "not valid JSON")
    check_flat(tei.post("/embed", content=b"x" * 9_000_000, headers=json), 413, "Validation", "too large")
    check_flat(tei.get("/embed"), 405, "Validation", "Not Allowed")
    check_flat(tei.post("/embed", headers={"host": "evil.example"}), 403, "Validation", "loopback")
    assert tei.post("/embed_all", json={"inputs": "x"}).status_code == 404
    assert isinstance(tei.post("/v1/embeddings", json={}).json()["error"], dict)  # OpenAI's stays nested


def test_tokens_of_a_request_are_limited(both):
    with both(max_request_tokens=50) as client:
        texts = ["nine tokens are about what this text has"] * 9
        check_flat(client.post("/tokenize", json={"inputs": texts}), 422, "Validation", "more than 50 tokens")
        check_flat(client.post("/embed", json={"inputs": texts}), 422, "Validation", "the limit is 50")


def test_keys_are_asked_for_in_the_same_shape(client):
    made = client.post("/admin/keys", json={"name": "root", "scopes": ["admin"]}).json()
    refused = client.post("/embed", json={"inputs": "x"})
    check_flat(refused, 401, "Validation", "API key")
    assert refused.headers["www-authenticate"].startswith("Bearer")
    key = {"authorization": f"Bearer {made['secret']}"}
    assert client.post("/embed", json={"inputs": "x"}, headers=key).status_code == 200
    assert client.get("/health").status_code == 200


def test_a_runtime_that_fails_is_424(tei, monkeypatch):
    embedder = tei.app.state.service.catalog.snapshot.backbones[MODEL].embedder

    async def fail(*_args, **_more):
        raise EncodeFailed(1)

    monkeypatch.setattr(embedder, "embed", fail)
    check_flat(tei.post("/embed", json={"inputs": ["x", "y"]}), 424, "Backend", "inputs[1] could not be computed")
    body = {"inputs": {"source_sentence": "x", "sentences": ["y"]}}
    check_flat(tei.post("/similarity", json=body), 424, "Backend", "sentences[0] could not be computed")


def test_overload_is_429_with_a_time_to_come_back(tei, monkeypatch):
    async def refuse(*_args, **_more):
        raise Overloaded(2.5)

    monkeypatch.setattr(tei.app.state.service.catalog.snapshot.backbones[MODEL].embedder, "embed", refuse)
    for path, body in (("/embed", {"inputs": "x"}), ("/rerank", {"query": "x", "texts": ["y"]})):
        refused = tei.post(path, json=body)
        check_flat(refused, 429, "Overloaded", "Try again later")
        assert refused.headers["retry-after"] == "3"


def test_the_alias_without_v1_is_openai_s_route(tei):
    body = {"model": MODEL, "input": TEXTS}
    assert tei.post("/embeddings", json=body).json() == tei.post("/v1/embeddings", json=body).json()


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"embedding_type": "float", "normalized": True, "late_chunking": False}, 200),
        ({"embedding_type": ["float"], "task": "text-matching", "truncate": "END"}, 200),
        ({"input": [{"text": "my card"}], "truncate": "NONE"}, 200),
        ({"output_dimension": 384, "input_type": "query"}, 200),
        ({"embedding_type": "ubinary"}, 422),
        ({"normalized": False}, 422),
        ({"late_chunking": True}, 422),
        ({"truncate": "START"}, 422),
        ({"input": [{"image": "my card"}]}, 422),
        ({"input_type": 1}, 422),
    ],
)
def test_fields_of_other_dialects_are_honoured_or_refused(tei, more, status):
    response = tei.post("/v1/embeddings", json={"model": MODEL, "input": "my card", **more})
    assert response.status_code == status, response.text
    if status == 200:
        assert np.allclose(response.json()["data"][0]["embedding"], embed(tei, "my card")[0], atol=1e-6)


def test_shorter_by_voyage_s_name_and_packed_by_jina_s(tei):
    body = {"model": MODEL, "input": "my card", "output_dimension": 8, "embedding_type": "base64"}
    packed = tei.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    found = np.frombuffer(base64.b64decode(packed), "<f4")
    assert np.allclose(found, embed(tei, "my card", dimensions=8)[0], atol=1e-6)


ROUTES = {
    "/embed": {"200", "400", "401", "403", "404", "413", "422", "424", "429", "503", "504"},
    "/": {"200", "422", "424", "429"},
    "/similarity": {"200", "422", "424", "429"},
    "/rerank": {"200", "422", "424", "429"},
    "/tokenize": {"200", "422"},
    "/decode": {"200", "422"},
    "/v1/rerank": {"200", "400", "404", "413", "422", "429"},
    "/v2/rerank": {"200", "400", "404", "413", "422", "429"},
    "/v2/embed": {"200", "400", "404", "413", "422", "429"},
    "/embeddings": {"200", "400", "404", "413", "422", "429"},
}


def test_the_document_holds_every_route_with_schemas_that_fit_their_examples(tei):
    document = tei.get("/openapi.json").json()
    for path, statuses in ROUTES.items():
        operation = document["paths"][path]["post"]
        assert operation["summary"]
        assert operation["description"]
        asked = operation["requestBody"]["content"]["application/json"]
        jsonschema.validate(asked["example"], asked["schema"])
        assert statuses <= operation["responses"].keys(), path
        given = operation["responses"]["200"]["content"]["application/json"]
        if "example" in given:
            jsonschema.validate(given["example"], given["schema"])
        flat = path in ("/embed", "/", "/similarity", "/rerank", "/tokenize", "/decode")
        kind, name = ("application/json", "TeiError") if flat else ("application/problem+json", "ProblemBody")
        refusal = operation["responses"]["422"]["content"][kind]["schema"]
        assert refusal == {"$ref": f"#/components/schemas/{name}"}, path
        assert name in document["components"]["schemas"]


def test_answers_and_refusals_fit_the_document(tei):
    document = tei.get("/openapi.json").json()
    paths, error = document["paths"], document["components"]["schemas"]["TeiError"]
    for path in ("/embed", "/similarity", "/rerank", "/tokenize", "/decode", "/v1/rerank", "/v2/rerank", "/v2/embed"):
        operation = paths[path]["post"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        example = {**example, "model": "support"} if "model" in example else example
        response = tei.post(path, json=example)
        assert response.status_code == 200, (path, response.text)
        jsonschema.validate(response.json(), operation["responses"]["200"]["content"]["application/json"]["schema"])
    jsonschema.validate(tei.post("/embed", json={"inputs": []}).json(), error)
