"""Rerank in the shapes of Cohere, Jina and TEI, and Cohere's /v2/embed."""

import base64

import numpy as np
import pytest

MODEL = "all-MiniLM-L6-v2"
SECRET = "zyxwvut-private"
LONG = f"{SECRET} " * 200
QUERY = "Why was my card refused?"
DOCUMENTS = ["giraffes live in Kenya", "my card was declined at the shop", "the card machine said no", "hello"]


@pytest.fixture(scope="module")
def ranking(both):
    with both() as client:
        yield client


def rerank(client, path="/v1/rerank", **more):
    response = client.post(path, json={"model": MODEL, "query": QUERY, "documents": DOCUMENTS, **more})
    assert response.status_code == 200, response.text
    return response.json()


def cosines(encoder, query=QUERY, documents=DOCUMENTS):
    first, *others = encoder.encode([query, *documents], truncate=True).vectors
    return np.array(others) @ first


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_documents_come_sorted_by_their_cosine(ranking, exact_encoder, path):
    expected = cosines(exact_encoder)
    body = rerank(ranking, path)
    assert [r["index"] for r in body["results"]] == np.argsort(-expected).tolist()
    for result in body["results"]:
        assert result["relevance_score"] == pytest.approx(max(0.0, expected[result["index"]]), abs=1e-5)
        if path == "/v2/rerank":
            assert "document" not in result
        else:
            assert result["document"] == {"text": DOCUMENTS[result["index"]]}
    tokens = sum(exact_encoder.encode([QUERY, *DOCUMENTS]).counts)
    assert (body["model"], body["object"]) == (MODEL, "list")
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens, "truncated": 0}
    assert body["meta"]["billed_units"] == {"search_units": 1}
    assert body["id"] != rerank(ranking, path)["id"]


def test_no_score_is_below_zero_and_the_order_is_the_cosine_s(ranking, exact_encoder):
    documents = [
        "the theorem follows by induction",
        "my card was declined",
        "the volcano erupted near the coast",
        "a sonata in four movements",
    ]
    expected = cosines(exact_encoder, documents=documents)
    assert (expected < 0).sum() > 1
    results = rerank(ranking, documents=documents)["results"]
    assert [r["index"] for r in results] == np.argsort(-expected, kind="stable").tolist()
    assert min(r["relevance_score"] for r in results) == 0
    raw = ranking.post("/rerank", json={"query": QUERY, "texts": documents, "raw_scores": True}).json()
    assert [r["score"] for r in raw] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)


def test_top_n_objects_and_echo(ranking):
    documents = [{"text": text, "title": "ignored"} for text in DOCUMENTS]
    first, second = rerank(ranking, documents=documents, top_n=2)["results"]
    assert first["document"] == {"text": DOCUMENTS[first["index"]]}
    assert second["relevance_score"] <= first["relevance_score"]
    assert "document" not in rerank(ranking, return_documents=False)["results"][0]
    assert rerank(ranking, "/v2/rerank", return_documents=True)["results"][0]["document"]
    assert len(rerank(ranking, top_n=100)["results"]) == len(DOCUMENTS)
    assert rerank(ranking, documents=["x"] * 101)["meta"]["billed_units"]["search_units"] == 2


def test_tei_s_shape(ranking, exact_encoder):
    expected = cosines(exact_encoder)
    ranks = ranking.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "return_text": True}).json()
    assert [r["index"] for r in ranks] == np.argsort(-expected).tolist()
    assert all(r["text"] == DOCUMENTS[r["index"]] for r in ranks)
    assert all(0 <= r["score"] <= 1 for r in ranks)
    plain = ranking.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS}).json()
    assert plain[0].keys() == {"index", "score"}
    refused = ranking.post("/rerank", json={"query": QUERY, "texts": ["x", LONG]})  # as TEI: the setting says no
    assert (refused.status_code, refused.json()["error_type"]) == (422, "Validation")
    assert "texts[1] has" in refused.json()["error"]
    assert SECRET not in refused.text


def test_an_adapter_ranks_by_its_own_vectors(ranking):
    body = rerank(ranking, model="support")
    assert body["model"] == "support@1"
    scores = [{r["index"]: r["relevance_score"] for r in one["results"]} for one in (body, rerank(ranking))]
    assert max(abs(scores[0][i] - scores[1][i]) for i in range(len(DOCUMENTS))) > 0.001
    unnamed = ranking.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS}).json()
    assert unnamed["model"] == MODEL


def test_query_and_documents_get_their_prompts(ranking, exact_encoder):
    expected = cosines(exact_encoder, f"query: {QUERY}", [f"passage: {d}" for d in DOCUMENTS])
    body = rerank(ranking, model="prompted", top_n=1)
    assert body["results"][0]["relevance_score"] == pytest.approx(expected.max(), abs=1e-5)
    tokens = sum(exact_encoder.encode([f"query: {QUERY}", *(f"passage: {d}" for d in DOCUMENTS)]).counts)
    assert body["usage"]["prompt_tokens"] == tokens


def test_long_documents_are_cut_unless_told_otherwise(ranking, exact_encoder):
    expected = cosines(exact_encoder, documents=[LONG, "x"])
    body = rerank(ranking, documents=[LONG, "x"], return_documents=False)
    assert body["usage"]["truncated"] == 1
    scores = {r["index"]: r["relevance_score"] for r in body["results"]}
    assert scores[0] == pytest.approx(max(0, expected[0]), abs=1e-5)
    refused = ranking.post("/v1/rerank", json={"query": QUERY, "documents": ["x", LONG], "truncate": False})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert "documents[1] has" in refused.json()["detail"]
    query = ranking.post("/v1/rerank", json={"query": LONG, "documents": ["x"], "truncate": False})
    assert "query has" in query.json()["detail"]


def test_max_tokens_per_doc_keeps_the_beginning(ranking, exact_encoder):
    documents = ["my card was declined at the shop in town", "hello"]
    body = rerank(ranking, documents=documents, max_tokens_per_doc=4)
    expected = cosines(exact_encoder, documents=["my card was declined", "hello"])
    assert {r["index"]: r["relevance_score"] for r in body["results"]} == pytest.approx(
        {i: max(0.0, s) for i, s in enumerate(expected)}, abs=1e-5
    )
    assert body["usage"]["truncated"] == 1
    assert body["usage"]["prompt_tokens"] == sum(exact_encoder.encode([QUERY, "my card was declined", "hello"]).counts)
    assert rerank(ranking, max_tokens_per_doc=4096)["usage"]["truncated"] == 0


def test_the_head_of_a_text_is_its_first_tokens(exact_encoder):
    tokenizer = exact_encoder.tokenizer
    text = "unbelievably Zürich 火车站 declined\tagain 😀"
    whole = tokenizer.encode([text]).ids[0][1:-1]
    for count in range(1, len(whole) + 2):
        head = tokenizer.head(text, count)
        assert text.startswith(head)
        assert tokenizer.encode([head]).ids[0][1:-1] == whole[:count]
    assert tokenizer.head(text, len(whole)) is text


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/rerank", {"documents": ["x"]}, 422, "query is required"),
        ("/v1/rerank", {"query": "", "documents": ["x"]}, 400, "query is empty"),
        ("/v1/rerank", {"query": "x"}, 422, "documents is required"),
        ("/v1/rerank", {"query": "x", "documents": []}, 400, "empty list"),
        ("/v1/rerank", {"query": "x", "documents": ["x", ""]}, 400, "documents[1] is empty"),
        ("/v1/rerank", {"query": "x", "documents": [{"title": "x"}]}, 422, "documents[0] is not one"),
        ("/v1/rerank", {"query": "x", "documents": ["x"] * 2049}, 413, "the limit is 2048"),
        ("/v1/rerank", {"query": "x", "documents": ["x"], "top_n": 0}, 422, "top_n must be"),
        ("/v1/rerank", {"query": "x", "documents": ["x"], "return_documents": 1}, 422, "return_documents must be"),
        ("/v1/rerank", {"query": "x", "documents": ["x"], "max_tokens_per_doc": 0}, 422, "max_tokens_per_doc"),
        ("/v1/rerank", {"query": "x", "documents": ["x"], "rank_fields": ["title"]}, 422, "rank_fields is not"),
        ("/v2/rerank", {"query": "x", "documents": ["x"], "relevant_spans": {}}, 422, "relevant_spans is not"),
        ("/v2/rerank", {"query": "x", "documents": ["x"], "model": "rerank-v3.5"}, 404, "does not exist"),
        ("/rerank", {"query": "x", "texts": []}, 400, "empty list"),
        ("/rerank", {"texts": ["x"]}, 422, "query is required"),
        ("/rerank", {"query": "x", "texts": ["x"], "raw_scores": 1}, 422, "raw_scores must be"),
        ("/v2/embed", {"model": MODEL}, 422, "texts is required"),
        ("/v2/embed", {"texts": ["x"]}, 422, "model is required"),
        ("/v2/embed", {"model": MODEL, "texts": ["x"], "embedding_types": ["int8"]}, 422, "embedding_types may"),
        ("/v2/embed", {"model": MODEL, "images": ["x"]}, 422, "images are not"),
        ("/v2/embed", {"model": MODEL, "inputs": [{"content": [{"type": "image_url"}]}]}, 422, "inputs[0] does not"),
        ("/v2/embed", {"model": MODEL, "texts": ["x"], "truncate": "START"}, 422, "only its end"),
        ("/v2/embed", {"model": MODEL, "texts": ["x"], "output_dimension": 385}, 422, "this model has 384"),
        ("/v2/embed", {"model": MODEL, "texts": ["x", LONG], "truncate": "NONE"}, 400, "texts[1] has"),
    ],
)
def test_bad_requests_name_the_field(ranking, path, body, status, says):
    response = ranking.post(path, json=body)
    assert response.status_code == status, response.text
    assert says in response.json()["detail"]
    assert isinstance(response.json()["error"], str if path == "/rerank" else dict)
    assert SECRET not in response.text


def test_cohere_s_embed(ranking, exact_encoder):
    texts = ["my card", "hello"]
    expected = exact_encoder.encode([f"query: {t}" for t in texts])
    body = {"model": "prompted", "texts": texts, "input_type": "search_query", "embedding_types": ["float", "base64"]}
    answer = ranking.post("/v2/embed", json=body).json()
    assert np.abs(np.array(answer["embeddings"]["float"]) - expected.vectors).max() < 1e-5
    packed = [np.frombuffer(base64.b64decode(one), "<f4") for one in answer["embeddings"]["base64"]]
    assert np.abs(np.array(packed) - expected.vectors).max() < 1e-5
    assert answer["meta"]["billed_units"]["input_tokens"] == sum(expected.counts)
    assert (answer["response_type"], answer["texts"]) == ("embeddings_by_type", texts)
    parts = [{"content": [{"type": "text", "text": text}]} for text in texts]
    same = ranking.post("/v2/embed", json={**body, "texts": None, "inputs": parts}).json()
    assert same["embeddings"] == answer["embeddings"]
    del body["embedding_types"]
    short = ranking.post("/v2/embed", json={**body, "output_dimension": 16}).json()["embeddings"]
    assert (short.keys(), np.shape(short["float"])) == ({"float"}, (2, 16))


def test_cohere_s_embed_cuts_by_default(ranking, exact_encoder):
    assert ranking.post("/v2/embed", json={"model": MODEL, "texts": [LONG]}).status_code == 200
    body = {"model": MODEL, "texts": ["my card was declined at the shop"], "max_tokens": 2}
    found = ranking.post("/v2/embed", json=body).json()["embeddings"]["float"][0]
    assert np.abs(np.array(found) - exact_encoder.encode(["my card"]).vectors[0]).max() < 1e-5
