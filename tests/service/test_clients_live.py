"""Clients of other servers, unchanged, against a server in a process of its own."""

import cohere
import numpy as np
import openai
import pytest
import tiktoken
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from pydantic import ValidationError

from cli.server import running_service

MODEL = "all-MiniLM-L6-v2"
TEXTS = ["my card was declined", "what is the exchange rate?", "a dog in the park"]
LONG = "card " * 400
KEY = "unused"


@pytest.fixture(scope="module")
def url(prompted_home):
    """A server with the adapter `support` and the backbone `prompted`, exact on the CPU."""
    settings = {"DRIFTLINE_PROVIDER": "cpu", "DRIFTLINE_PRECISION": "fp32", "DRIFTLINE_LOG_FORMAT": "json"}
    with running_service(prompted_home.data_dir, worker=False, settings=settings) as url:
        yield url


@pytest.fixture(scope="module")
def expected(exact_encoder):
    return exact_encoder.encode(TEXTS).vectors


@pytest.fixture
def http():
    """A connection pool that is closed: most of these clients never close their own."""
    with openai.DefaultHttpxClient() as client:
        yield client


def near(found, expected):
    return np.shape(found) == np.shape(expected) and np.abs(np.array(found) - expected).max() < 1e-5


def test_openai(url, expected, exact_encoder):
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        answer = client.embeddings.create(model="prompted", input=TEXTS, extra_body={"prompt_name": "query"})
        prompted = exact_encoder.encode([f"query: {t}" for t in TEXTS])
        assert near([d.embedding for d in answer.data], prompted.vectors)
        assert answer.usage.total_tokens == sum(prompted.counts)
        raw = client.embeddings.with_raw_response.create(model=MODEL, input=TEXTS)
        assert int(raw.headers["x-compute-tokens"]) == raw.parse().usage.total_tokens
        with pytest.raises(openai.UnprocessableEntityError, match="empty, passage, query"):
            client.embeddings.create(model="prompted", input=TEXTS, extra_body={"prompt_name": "other"})
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:  # no /v1
        assert near([d.embedding for d in client.embeddings.create(model=MODEL, input=TEXTS).data], expected)


def langchain(url, http, **more):
    return OpenAIEmbeddings(
        model=MODEL, base_url=f"{url}/v1", api_key=KEY, max_retries=0, http_client=http,
        check_embedding_ctx_length=False, **more,
    )  # fmt: skip


def test_langchain_openai(url, http, expected):
    embeddings = langchain(url, http)
    assert near(embeddings.embed_documents(TEXTS), expected)
    assert near(embeddings.embed_query(TEXTS[0]), expected[0])
    short = langchain(url, http, dimensions=64)
    assert len(short.embed_query(TEXTS[0])) == 64


def test_langchain_openai_with_our_fields(url, http, exact_encoder):
    more = {"prompt_name": "query", "truncate": True, "model": "prompted"}
    embeddings = langchain(url, http, model_kwargs={"extra_body": more})
    assert near(embeddings.embed_query(LONG), exact_encoder.encode([f"query: {LONG}"], truncate=True).vectors[0])


async def test_langchain_openai_async(url, expected):
    async with openai.DefaultAsyncHttpxClient() as client:
        embeddings = langchain(url, None, http_async_client=client)
        assert near(await embeddings.aembed_documents(TEXTS), expected)


def test_langchain_s_default_sends_token_ids_and_is_told_what_to_set(url, http, monkeypatch):
    # Its tokenizer's vocabulary would be downloaded; one byte a token is as good to send.
    encoding = tiktoken.Encoding(
        "cl100k_base", pat_str=r".", mergeable_ranks={bytes([n]): n for n in range(256)}, special_tokens={}
    )
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "cl100k_base", encoding)
    embeddings = OpenAIEmbeddings(model=MODEL, base_url=f"{url}/v1", api_key=KEY, max_retries=0, http_client=http)
    with pytest.raises(openai.UnprocessableEntityError, match="set check_embedding_ctx_length=False"):
        embeddings.embed_documents(TEXTS)


def test_llama_index_openai(url, http, expected):
    settings = {"model_name": MODEL, "api_base": f"{url}/v1", "api_key": KEY, "http_client": http}
    model = OpenAIEmbedding(**settings)
    assert near(model.get_text_embedding_batch(TEXTS), expected)
    assert near(model.get_query_embedding(TEXTS[0]), expected[0])
    short = OpenAIEmbedding(**settings, dimensions=64)
    assert len(short.get_text_embedding(TEXTS[0])) == 64
    assert near(model.get_text_embedding(TEXTS[0].replace(" ", "\n")), expected[0])  # it sends spaces for line breaks


def test_llama_index_openai_with_our_fields(url, http, exact_encoder):
    more = {"extra_body": {"prompt_name": "query", "truncate": True}}
    model = OpenAIEmbedding(
        model_name="prompted", api_base=f"{url}/v1", api_key=KEY, http_client=http, additional_kwargs=more
    )
    assert near(model.get_text_embedding(LONG), exact_encoder.encode([f"query: {LONG}"], truncate=True).vectors[0])


def test_llama_index_tei(url, expected, exact_encoder):
    model = TextEmbeddingsInference(model_name=MODEL, base_url=url)
    assert near(model.get_text_embedding_batch(TEXTS), expected)
    assert near(model.get_query_embedding(TEXTS[0]), expected[0])
    assert near(model.get_text_embedding(LONG), exact_encoder.encode([LONG], truncate=True).vectors[0])
    instructed = TextEmbeddingsInference(model_name=MODEL, base_url=url, query_instruction="query:", auth_token=KEY)
    assert near(instructed.get_query_embedding(TEXTS[0]), exact_encoder.encode([f"query: {TEXTS[0]}"]).vectors[0])
    adapted = TextEmbeddingsInference(model_name=MODEL, base_url=url, endpoint="/embed?model=support")
    assert not near(adapted.get_text_embedding_batch(TEXTS), expected)


async def test_llama_index_tei_mistakes_a_refusal_for_vectors(url):
    # It never looks at the status. What it raises is what docs/clients.md tells its users to expect.
    model = TextEmbeddingsInference(model_name=MODEL, base_url=url, truncate_text=False)
    for one in (model.get_text_embedding, model.get_query_embedding):
        with pytest.raises(KeyError, match="0"):
            one(LONG)
    with pytest.raises(ValidationError, match="should be a valid list"):
        model.get_text_embedding_batch([TEXTS[0], LONG])
    with pytest.raises(KeyError, match="0"):
        await model.aget_text_embedding(LONG)
    with pytest.raises(ValidationError, match="should be a valid list"):
        await model.aget_text_embedding_batch([TEXTS[0], LONG])


async def test_llama_index_tei_async(url, expected):
    model = TextEmbeddingsInference(model_name=MODEL, base_url=url)
    assert near(await model.aget_text_embedding_batch(TEXTS), expected)


@pytest.mark.parametrize("path", ["", "/", "/embed"])
def test_hugging_face_features(url, expected, exact_encoder, path):
    with InferenceClient(model=f"{url}{path}") as client:
        assert near(client.feature_extraction(TEXTS), expected)
        assert near(client.feature_extraction(TEXTS[0], normalize=True, truncate=True), expected[:1])
        assert client.feature_extraction(TEXTS, dimensions=64).shape == (3, 64)
        cut = client.feature_extraction(LONG, truncate=True, truncation_direction="right")
        assert near(cut, exact_encoder.encode([LONG], truncate=True).vectors)
    with InferenceClient(model=f"{url}/embed?model=prompted") as client:
        prompted = exact_encoder.encode([f"passage: {t}" for t in TEXTS]).vectors
        assert near(client.feature_extraction(TEXTS, prompt_name="passage"), prompted)


async def test_hugging_face_features_async(url, expected):
    async with AsyncInferenceClient(model=url) as client:
        assert near(await client.feature_extraction(TEXTS), expected)


def test_hugging_face_similarity(url, expected):
    with InferenceClient(model=f"{url}/similarity") as client:
        scores = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:])
    assert np.allclose(scores, expected[1:] @ expected[0], atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ({"text": TEXTS[0], "prompt_name": "query"}, 422, "this model has no prompts"),
        ({"text": TEXTS[0], "dimensions": 1000}, 422, "this model has 384"),
        ({"text": [TEXTS[0], LONG], "truncate": False}, 422, "inputs[1] has 402 tokens; the limit is 256"),
        ({"text": ""}, 400, "inputs[0] is empty"),
    ],
)
def test_hugging_face_shows_our_refusals(url, asked, status, says):
    with InferenceClient(model=url) as client, pytest.raises(HfHubHTTPError) as refused:
        client.feature_extraction(**asked)
    assert refused.value.response.status_code == status
    assert says in str(refused.value)


def test_cohere_rerank(url, exact_encoder):
    first, *others = exact_encoder.encode(["query: card refused", *(f"passage: {t}" for t in TEXTS)]).vectors
    scores = np.array(others) @ first
    with cohere.ClientV2(api_key=KEY, base_url=url) as client:
        ranked = client.rerank(model="prompted", query="card refused", documents=TEXTS, top_n=2)
        with pytest.raises(cohere.NotFoundError) as unknown:
            client.rerank(model="rerank-v3.5", query="x", documents=TEXTS)
    assert [r.index for r in ranked.results] == np.argsort(-scores)[:2].tolist()
    assert [r.relevance_score for r in ranked.results] == pytest.approx(np.sort(scores)[::-1][:2], abs=1e-5)
    assert ranked.id
    assert ranked.meta.billed_units.search_units == 1
    assert "does not exist" in unknown.value.body["detail"]


def test_cohere_rerank_v1(url):
    documents = [{"text": text} for text in TEXTS]
    with cohere.Client(api_key=KEY, base_url=url) as client:
        ranked = client.rerank(model=MODEL, query="card refused", documents=documents, return_documents=True)
    assert len(ranked.results) == len(TEXTS)
    assert all(r.document.text == TEXTS[r.index] for r in ranked.results)


def test_cohere_embed(url, exact_encoder):
    asked = {"texts": TEXTS, "input_type": "search_document"}
    with cohere.ClientV2(api_key=KEY, base_url=url) as client:
        embedded = client.embed(model="prompted", **asked, embedding_types=["float"], truncate="END")
        with pytest.raises(cohere.UnprocessableEntityError, match="embedding_types may hold"):
            client.embed(model=MODEL, **asked, embedding_types=["int8"])
    assert near(embedded.embeddings.float_, exact_encoder.encode([f"passage: {t}" for t in TEXTS]).vectors)
