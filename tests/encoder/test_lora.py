"""LoRA adapters in the backbone's graph: many in one batch, each as if alone, whatever comes and goes meanwhile."""

import gc
import threading
import weakref

import numpy as np
import onnx
import pytest

from encoder.errors import ArtifactRefused, EncoderError
from encoder.probes import Probes
from encoder.runtime import Provider, candidates, open_session
from encoder.standalone import fold

TEXTS = [
    "where is my card",
    "I was charged twice",
    "how do I top up by bank transfer when my account is new and my card has not come yet",
    "refund",
    "my passcode does not work",
    "the exchange rate is wrong",
    "cancel",
    "can I have a second card for my daughter",
]


@pytest.fixture(scope="module")
def adapted(open_encoder):
    """An encoder of this module's own: it keeps the branches that tests ask for."""
    return open_encoder(provider="cpu", precision="fp32", threads=2, streams=1)


@pytest.fixture(scope="module")
def feed(adapted):
    return adapted.tokenizer.encode(TEXTS).ids


@pytest.fixture(scope="module")
def folded(blobs, feed):
    """Vectors of an adapter by another road: its products added to the weights, no branches."""

    def vectors(lora):
        model = onnx.load_model_from_string(blobs.file("model.onnx"))
        fold(model, lora.pairs())
        return open_session(model.SerializeToString(), "cpu", "fp32").run(feed)

    return vectors


def alone(encoder, feed, rows):
    """Each text in a run of its own."""
    return np.concatenate([encoder.forward_adapted([ids], [row]) for ids, row in zip(feed, rows, strict=True)])


def test_an_adapter_gives_what_its_folded_weights_give(adapted, feed, folded, make_lora):
    base = adapted.session.run(feed)
    everywhere = {"modules": ("query", "key", "value", "intermediate.dense")}
    for lora in (make_lora(1, 4), make_lora(2, 16, **everywhere), make_lora(3, 8, layers=(5,))):
        found = adapted.forward_adapted(feed, [lora] * len(TEXTS))
        np.testing.assert_allclose(found, folded(lora), atol=2e-6)
        assert np.abs(found - base).max() > 1e-2


def test_rows_of_any_adapters_share_a_batch_as_if_alone(adapted, feed, make_lora):
    rows = [make_lora(1, 4), None, make_lora(2, 8), make_lora(3, 16, modules=("key",)), None, make_lora(2, 8)]
    rows += [make_lora(4, 16, layers=(0, 3)), make_lora(1, 4)]
    mixed = adapted.forward_adapted(feed, rows)
    np.testing.assert_allclose(mixed, alone(adapted, feed, rows), atol=2e-6)
    base = adapted.session.run(feed)
    moved = np.abs(mixed - base).max(axis=1)
    assert (moved[[0, 2, 3, 5, 6, 7]] > 1e-2).all()
    np.testing.assert_allclose(mixed[[1, 4]], base[[1, 4]], atol=2e-6)


def test_rows_of_the_backbone_are_the_plain_graphs_to_the_last_bit(adapted, open_encoder, feed, make_lora):
    # Opened alike: threads and streams that each start measures for itself would change the order of sums.
    encoder = open_encoder(provider="cpu", precision="fp32", threads=2, streams=1)
    plain = encoder.session.run(feed)
    adapted.prepare_adapters(make_lora(1))
    assert adapted.session.sites
    assert not encoder.session.sites
    assert (adapted.session.run(feed) == plain).all()
    assert (adapted.forward_adapted(feed, [None] * len(TEXTS)) == plain).all()
    rows = [make_lora(1, 8), None] * (len(TEXTS) // 2)
    np.testing.assert_allclose(adapted.forward_adapted(feed, rows)[1::2], plain[1::2], atol=2e-6)
    assert adapted.self_check() > 0.99999


def test_a_neighbour_of_huge_weights_touches_no_other_row(adapted, feed, make_lora):
    pairs = {name: (a * 0 + 6e4, b * 0 + 6e4) for name, (a, b) in make_lora.pairs(1, 4).items()}
    digest, held = make_lora.published(pairs)
    huge = type(make_lora(1)).open(digest, held.__getitem__)
    mild = make_lora(2, 8)
    rows = [mild, None, mild, None, mild, None, mild, None]
    with_huge = [huge, *rows[1:]]
    np.testing.assert_allclose(
        adapted.forward_adapted(feed, with_huge)[1:], adapted.forward_adapted(feed, rows)[1:], atol=2e-6
    )


def test_only_one_copy_of_the_weights_stays(open_encoder, feed, make_lora):
    fresh = open_encoder(provider="cpu")
    plain = weakref.ref(fresh.session._state.session)
    fresh.prepare_adapters(make_lora(1, 4))
    gc.collect()
    assert plain() is None
    branched = weakref.ref(fresh.session._state.session)
    fresh.prepare_adapters(make_lora(2, 8))  # the same modules: the same graph
    assert branched() is fresh.session._state.session
    before = fresh.session.sites
    fresh.prepare_adapters(make_lora(3, 8, modules=("key",)))
    assert fresh.session.sites > before
    gc.collect()
    assert branched() is None


def test_more_ranks_than_one_run_takes_are_run_in_turns(adapted, feed, make_lora, monkeypatch):
    rows = [make_lora(1, 16), make_lora(2, 4), None, make_lora(3, 8), make_lora(1, 16), make_lora(4, 4), None]
    rows.append(make_lora(5, 8))
    wanted = adapted.forward_adapted(feed, rows)
    for limit in (1, 8, 20):
        monkeypatch.setattr("encoder.adapted.MAX_COLUMNS", limit)
        np.testing.assert_allclose(adapted.forward_adapted(feed, rows), wanted, atol=2e-6)


def test_two_hundred_adapters_are_resident(adapted, feed, make_lora):
    resident = [make_lora(100 + seed, (2, 4, 8)[seed % 3], layers=(seed % 6, 5)) for seed in range(200)]
    assert sum(lora.nbytes for lora in resident) < 10e6
    draw = np.random.default_rng(0)
    for _ in range(5):
        rows = [resident[index] for index in draw.integers(0, 200, len(TEXTS))]
        np.testing.assert_allclose(adapted.forward_adapted(feed, rows), alone(adapted, feed, rows), atol=2e-6)


def test_adapters_come_and_go_while_others_run(open_encoder, feed, make_lora):
    shared = open_encoder(provider="cpu")
    mild = make_lora(1, 8)
    wanted = shared.forward_adapted(feed, [mild] * len(TEXTS))
    base = shared.session.run(feed)
    faults, stop = [], threading.Event()

    def serve():
        while not stop.is_set():
            found = shared.forward_adapted(feed, [mild, None] * (len(TEXTS) // 2))
            if np.abs(found[::2] - wanted[::2]).max() > 2e-6 or np.abs(found[1::2] - base[1::2]).max() > 2e-6:
                faults.append("a row changed")

    def come_and_go(first):
        try:
            for seed in range(first, first + 4):
                # Nothing but the run itself holds this adapter.
                gone = shared.forward_adapted(feed, [make_lora(seed, 8)] * len(TEXTS))
                gc.collect()
                again = shared.forward_adapted(feed, [make_lora(seed, 8)] * len(TEXTS))
                if np.abs(gone - again).max() > 2e-6 or np.abs(gone - wanted).max() < 1e-2:
                    faults.append("a dropped adapter gave other vectors")
        except EncoderError as error:
            faults.append(repr(error))

    threads = [threading.Thread(target=serve)]
    threads += [threading.Thread(target=come_and_go, args=(first,)) for first in (200, 300)]
    for thread in threads:
        thread.start()
    shared.prepare_adapters(make_lora(9, 4, modules=("key",)))  # the graph is opened anew under traffic
    for thread in threads[1:]:
        thread.join()
    stop.set()
    threads[0].join()
    assert faults == []


def test_what_does_not_fit_is_refused_and_the_plain_graph_goes_on(open_encoder, feed, make_lora):
    fresh = open_encoder(provider="cpu")
    plain = fresh.session.run(feed)
    a, b = np.ones((4, 384), np.float32), np.ones((4, 384), np.float32)
    cases = {
        "no Linear module named encoder.layer.9": {"encoder.layer.9.attention.self.query": (a, b)},
        "from 384 to 384 features, the backbone's has 384 and 1536": {"encoder.layer.0.intermediate.dense": (a, b)},
    }
    for named, pairs in cases.items():
        digest, held = make_lora.published(pairs)
        lora = type(make_lora(1)).open(digest, held.__getitem__)
        with pytest.raises(ArtifactRefused, match=named):
            fresh.prepare_adapters(lora)
    digest, held = make_lora.published(make_lora.pairs(1, 4), backbone="0" * 64)
    other = type(make_lora(1)).open(digest, held.__getitem__)
    for call in (fresh.prepare_adapters, fresh.prove):
        with pytest.raises(ArtifactRefused, match="another backbone"):
            call(other)
    with pytest.raises(ArtifactRefused, match="another backbone"):
        fresh.forward_adapted(feed, [other] * len(TEXTS))
    with pytest.raises(EncoderError, match="8 texts and 1 adapters"):
        fresh.forward_adapted(feed, [None])
    assert not fresh.session.sites
    assert (fresh.session.run(feed) == plain).all()
    assert fresh.forward_adapted([], []).shape == (0, 384)


def test_probes_must_be_reproduced(adapted, feed, make_lora):
    pairs = make_lora.pairs(7, 8)
    digest, held = make_lora.published(pairs)
    lora = type(make_lora(1)).open(digest, held.__getitem__)
    vectors = adapted.forward_adapted(feed, [lora] * len(TEXTS))
    digest, held = make_lora.published(pairs, Probes(tuple(TEXTS), vectors))
    right = type(lora).open(digest, held.__getitem__)
    assert adapted.prove(right) > 0.99999
    for wrong in (adapted.session.run(feed), np.roll(vectors, 1, axis=0)):
        digest, held = make_lora.published(pairs, Probes(tuple(TEXTS), wrong))
        with pytest.raises(ArtifactRefused, match="does not reproduce its probes"):
            adapted.prove(type(lora).open(digest, held.__getitem__))
    digest, held = make_lora.published(pairs, Probes(("x " * 400,), vectors[:1]))
    with pytest.raises(ArtifactRefused, match=r"probes\.json"):
        adapted.prove(type(lora).open(digest, held.__getitem__))


@pytest.mark.skipif(Provider.OPENVINO not in {pair[0] for pair in candidates()}, reason="OpenVINO is not installed")
def test_the_openvino_plugin_runs_mixed_batches(open_encoder, adapted, feed, make_lora):
    plugin = open_encoder(provider="openvino")
    plain = plugin.session.run(feed)
    rows = [make_lora(1, 4), None, make_lora(2, 8), make_lora(3, 16), None, make_lora(2, 8), None, make_lora(1, 4)]
    found, wanted = plugin.forward_adapted(feed, rows), adapted.forward_adapted(feed, rows)
    assert (found * wanted).sum(axis=1).min() > 0.999
    assert (found * alone(plugin, feed, rows)).sum(axis=1).min() > 0.9995
    assert (plugin.session.run(feed) * plain).sum(axis=1).min() > 0.9999
