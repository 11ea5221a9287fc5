"""Texts of the benchmarks: real ones as they are, in batches, or joined and cut to lengths with a long tail."""

import math
import random
from collections.abc import Sequence
from pathlib import Path

from encoder.manifest import BackboneManifest, load_files, load_manifest_bytes
from encoder.tokens import Tokenizer
from registry import backbones
from registry.home import Home

TICKETS = Path(__file__).parent.parent / "examples/support-desk/tickets.jsonl"

SHORTEST, LONGEST = 8, 256
# exp(N(MEDIAN, SIGMA)) cut to the range: half of all texts within 28 tokens, one in a hundred at the limit.
_MEDIAN, _SIGMA = math.log(28), 1.0


def default_model(data_dir: Path | None) -> tuple[str, Tokenizer]:
    """Name of a home's default backbone and its tokenizer; nothing else of it is loaded.

    Raises:
        SystemExit: The home has none.
    """
    registry = Home.at(data_dir).registry()
    try:
        with registry.reading() as session:
            record = backbones.default(session)
        if record is None:
            raise SystemExit("no backbone is imported; run: driftline backbone import")
        manifest = BackboneManifest.from_bytes(load_manifest_bytes(record.digest, registry.fetch))
        wanted = {"tokenizer.json": manifest.files["tokenizer.json"]}
        data = load_files(wanted, registry.fetch)["tokenizer.json"]
        return record.name, Tokenizer.from_bytes(data, manifest.max_tokens)
    finally:
        registry.close()


def batches(texts: Sequence[str], size: int, count: int) -> list[list[str]]:
    """`count` random samples of `size` different texts, always the same ones."""
    return [random.Random(seed).sample(list(texts), min(size, len(texts))) for seed in range(count)]


def mixed_lengths(texts: Sequence[str], tokenizer: Tokenizer, count: int, *, seed: int = 0) -> list[str]:
    """Texts of 8 to 256 tokens with a long tail, joined from random ones and cut at a word.

    The same set of texts gives the same result in any order. Word pieces never span a space, so tokens of the words
    add up to the tokens of the text.
    """
    chance = random.Random(seed)
    words = sorted({word for text in texts for word in text.split()})
    special = 2
    cost = {word: n - special for word, n in zip(words, tokenizer.encode(words, truncate=True).counts, strict=True)}
    ordered = sorted(texts)
    made = []
    while len(made) < count:
        target = min(LONGEST, max(SHORTEST, round(math.exp(chance.gauss(_MEDIAN, _SIGMA)))))
        chosen: list[str] = []
        tokens = special
        full = False
        while not full:
            for word in chance.choice(ordered).split():
                if tokens + cost[word] > target:
                    full = True
                    break
                chosen.append(word)
                tokens += cost[word]
        if tokens >= min(SHORTEST, target):
            made.append(" ".join(chosen))
    return made
