"""Tokens: true counts, refusals that name the text, and no input that crashes or hangs."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.errors import ArtifactRefused, EmptyText, TextTooLong
from encoder.tokens import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(blobs) -> Tokenizer:
    return Tokenizer.from_bytes(blobs.file("tokenizer.json"), 256)


def test_counts_are_the_tokens_embedded(tokenizer):
    tokens = tokenizer.encode(["hello", "hello world", "unbelievable!"])
    assert tokens.counts == [3, 4, len(tokens.ids[2])]
    assert tokens.ids[0] == [101, 7592, 102]
    assert tokens.truncated == [False, False, False]


@pytest.mark.parametrize("text", ["", " ", "\t\n ", "\u3000"])
def test_white_space_is_refused_by_position(tokenizer, text):
    with pytest.raises(EmptyText) as refused:
        tokenizer.encode(["fine", text])
    assert refused.value.index == 1


def test_a_text_at_the_limit_passes_and_one_token_more_does_not(tokenizer):
    assert tokenizer.encode(["word " * 254]).counts == [256]
    with pytest.raises(TextTooLong) as refused:
        tokenizer.encode(["fine", "word " * 255])
    error = refused.value
    assert (error.index, error.tokens, error.limit) == (1, 257, 256)
    assert "257" in str(error)
    assert "256" in str(error)
    assert "word" not in str(error)


def test_truncation_cuts_and_says_so(tokenizer):
    tokens = tokenizer.encode(["short", "word " * 1000], truncate=True)
    assert tokens.counts == [3, 256]
    assert tokens.truncated == [False, True]
    assert tokens.ids[1] == tokenizer.encode(["word " * 254]).ids[0]


@pytest.mark.parametrize(
    "text", ["a\x00b", "lone \ud83d surrogate", "\udc00", "😀👩‍👩‍👧‍👦", "\u200b", "\x00", "\u202e", "́"]
)
def test_odd_characters_are_tokens_like_others(tokenizer, text):
    tokens = tokenizer.encode([text])
    assert 2 <= tokens.counts[0] == len(tokens.ids[0])


def test_a_split_pair_of_surrogates_is_the_character_it_spells(tokenizer):
    assert tokenizer.encode(["\ud83d\ude00"]).ids == tokenizer.encode(["😀"]).ids


@pytest.mark.parametrize("unit", ["a", "a ", " ", "😀", "世", "\x00", "é", ".", "\ud83d"])
def test_a_megabyte_takes_bounded_time(tokenizer, unit):
    text = unit * 1_000_000 + "end"
    start = time.process_time()
    with pytest.raises(TextTooLong) as refused:
        tokenizer.encode([text])
    tokens = tokenizer.encode([text], truncate=True)
    assert time.process_time() - start < 2.0
    assert refused.value.characters == len(text)
    assert str(len(text)) in str(refused.value)
    assert tokens.truncated == [True]
    assert tokens.counts[0] == len(tokens.ids[0]) <= 256


@given(st.text(st.characters(codec=None, categories=None), min_size=1, max_size=400))
def test_any_text_is_encoded_or_refused_as_empty(tokenizer, text):
    if text.isspace():
        with pytest.raises(EmptyText):
            tokenizer.encode([text])
    else:
        tokens = tokenizer.encode([text], truncate=True)
        assert tokens.counts == [len(tokens.ids[0])]
        assert tokens.counts[0] <= 256


def test_many_threads_get_what_one_gets(tokenizer):
    texts = [f"text {number} " * (1 + number % 140) for number in range(200)]
    wanted = tokenizer.encode(texts, truncate=True)
    results = []

    def work(truncate):
        for _ in range(10):
            if truncate:
                results.append(tokenizer.encode(texts, truncate=True) == wanted)
            else:
                with pytest.raises(TextTooLong):
                    tokenizer.encode(texts)
                results.append(True)

    threads = [threading.Thread(target=work, args=(number % 2 == 0,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"{}", b"null", b'{"model": {}}'])
def test_what_is_no_tokenizer_is_refused(data):
    with pytest.raises(ArtifactRefused, match=r"tokenizer\.json"):
        Tokenizer.from_bytes(data, 256)


def test_a_limit_without_room_is_refused(blobs):
    with pytest.raises(ArtifactRefused, match="no room"):
        Tokenizer.from_bytes(blobs.file("tokenizer.json"), 2)
