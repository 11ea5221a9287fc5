"""What each number format is worth on the importing machine: nearness to float32, steadiness across batches, search."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from encoder.batch import TokenIds, plan_batches
from encoder.errors import EncoderError
from encoder.manifest import PrecisionFacts
from encoder.retrieval import Retrieval
from encoder.runtime import INT8_BAR, Precision, Run, candidates, min_cosine, open_session
from encoder.tokens import Tokenizer
from training.generic import generic_texts
from training.parity import parity_texts

_BATCH_TOKENS = 1024
_STEADY = 24  # texts that are computed in several batches
_BESIDE = 7

Vectors = npt.NDArray[np.float32]


def calibration_batches(tokenizer: Tokenizer) -> list[TokenIds]:
    """Batches of sentences on many topics and of odd texts, by which the scales of int8 are chosen.

    A word repeated to the model's limit drives activations where no sentence does; without such texts the cosine of
    one fell from 0.98 to 0.93.
    """
    odd, varied, long = (parity_texts(tokenizer)[part] for part in (slice(16), slice(16, -8, 3), slice(-2, None)))
    texts = [*generic_texts()[::2], *odd, *varied, *long, "ha " * 30, "z " * tokenizer.max_tokens, "0 " * 120]
    ids = tokenizer.encode(texts, truncate=True).ids
    batches = plan_batches([len(row) for row in ids], _BATCH_TOKENS)
    return [[ids[index] for index in batch] for batch in batches]


def measure_precisions(
    tokenizer: Tokenizer, model: bytes, int8: bytes | None, probe: Retrieval
) -> dict[str, PrecisionFacts]:
    """Every precision that this machine computes in, against float32 on the CPU provider; the worst of its providers.

    A provider that does not load is left out: whether it serves is found out at every start.

    Args:
        model, int8: The graph with float32 weights, and with int8 weights where there is such a one.
    """
    ids = tokenizer.encode(parity_texts(tokenizer)[::2], truncate=True).ids
    exact = _vectors(ids, open_session(model, "cpu", "fp32").run)
    found: dict[str, PrecisionFacts] = {}
    for provider, precision in candidates(int8=int8 is not None):
        graph = int8 if precision is Precision.INT8 and int8 is not None else model
        try:
            run = open_session(graph, provider, precision).run
            vectors = _vectors(ids, run)
            facts = PrecisionFacts(
                providers=str(provider),
                texts=len(ids),
                max_abs_difference=float(np.abs(vectors - exact).max()),
                min_cosine=min_cosine(vectors, exact),
                batch_difference=_unsteadiness(ids, run),
                retrieval=probe.measure(tokenizer, run),
            )
        except EncoderError:
            continue
        found[precision] = _worse(found[precision], facts) if precision in found else facts
    return {str(precision): _rounded(facts) for precision, facts in found.items()}


def int8_holds(facts: dict[str, PrecisionFacts]) -> bool:
    """Whether int8 keeps what it must where it is asked for by name."""
    if "int8" not in facts:
        return False
    loss = facts["fp32"].retrieval - facts["int8"].retrieval
    return facts["int8"].min_cosine >= INT8_BAR.cosine and loss <= INT8_BAR.loss


def _vectors(ids: Sequence[list[int]], run: Run) -> Vectors:
    batches = plan_batches([len(row) for row in ids], _BATCH_TOKENS)
    return _in_batches(ids, batches, run)


def _in_batches(ids: Sequence[list[int]], batches: Sequence[list[int]], run: Run) -> Vectors:
    parts = [run([ids[index] for index in batch]) for batch in batches]
    vectors = np.empty((len(ids), parts[0].shape[1]), dtype=np.float32)
    for batch, part in zip(batches, parts, strict=True):
        vectors[batch] = part
    return vectors


def _unsteadiness(ids: Sequence[list[int]], run: Run) -> float:
    """Largest difference of a component of a text's vector: alone, among its like, and beside the longest text."""
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    longest = ids[order[-1]]
    texts = [ids[index] for index in order[:: max(1, len(order) // _STEADY)]]
    groups = [list(range(len(texts)))[row : row + _BESIDE] for row in range(0, len(texts), _BESIDE)]
    alone = _in_batches(texts, [[index] for index in range(len(texts))], run)
    alike = _in_batches(texts, groups, run)
    beside = np.concatenate([run([*(texts[i] for i in group), longest])[:-1] for group in groups])
    return float(max(np.abs(one - other).max() for one, other in ((alone, alike), (alone, beside), (alike, beside))))


def _worse(one: PrecisionFacts, other: PrecisionFacts) -> PrecisionFacts:
    return PrecisionFacts(
        providers=f"{one.providers}, {other.providers}",
        texts=one.texts,
        max_abs_difference=max(one.max_abs_difference, other.max_abs_difference),
        min_cosine=min(one.min_cosine, other.min_cosine),
        batch_difference=max(one.batch_difference, other.batch_difference),
        retrieval=min(one.retrieval, other.retrieval),
    )


def _rounded(facts: PrecisionFacts) -> PrecisionFacts:
    """Figures without the last digits, which differ from run to run: they are part of the manifest's digest."""
    return PrecisionFacts(
        providers=facts.providers,
        texts=facts.texts,
        max_abs_difference=float(f"{facts.max_abs_difference:.1e}"),
        min_cosine=round(facts.min_cosine, 5),
        batch_difference=float(f"{facts.batch_difference:.1e}"),
        retrieval=round(facts.retrieval, 2),
    )
