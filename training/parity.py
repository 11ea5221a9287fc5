"""Proof that an exported graph computes what torch computes: the texts, the comparison, the limits."""

import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from encoder.batch import plan_batches
from encoder.manifest import Parity
from encoder.runtime import Run
from encoder.tokens import Tokenizer
from training.sources import ExportRefused

MAX_ABS_DIFFERENCE = 1e-4
MIN_COSINE = 0.99999

_VOCABULARY = (
    "my card was charged twice and the refund still shows as pending after five days please help how do I reset "
    "password two-factor authentication verification invoice #4711 €12.50 $1,299.00 3.14159 2026-11-23 10:45pm "
    "don't can't we'll naïve café Zürich señor façade coöperate Ångström Łódź İstanbul straße ﬁne Ⅷ ½ x² H₂O "
    "привет мир как дела Київ здравствуйте Ελλάδα καλημέρα مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดี 你好 世界 "
    "こんにちは 東京 안녕하세요 서울 xin chào 😀 👩‍👩‍👧‍👦 🇫🇷 👍🏽 ❤️ ✅ → ∑ ∞ ≠ 🤷🏻‍♀️ "
    "def f(x): return x**2 SELECT * FROM users; "
    "<b>bold</b> https://example.org/a?b=c&d=e user@example.com C++ v1.2.3-rc.1 ... !!! ??? -- 'quoted' \"double\" "
    "supercalifragilisticexpialidocious WHY IS THIS SO SLOW lorem ipsum dolor sit amet e\u0301 zero\u200bwidth tab\tend"
)
_WORDS = _VOCABULARY.split(" ")
_ODD = (
    "a",
    "?",
    "😀",
    "世",
    "NUL \x00 inside",
    "lone surrogate \ud83d here",
    "\u200b",
    "line\nbreaks\r\nand\ttabs",
    "   spaces   around   ",
    "ALL CAPS AND ÜMLÄUTE",
    "x" * 150,
    "[CLS] special [SEP] tokens [MASK] typed [PAD] by hand",
    "́́combining marks first",
    "\u202eright to left override",
    "1234567890 " * 8,
    "🇫🇷" * 20,
)


def parity_texts(tokenizer: Tokenizer) -> list[str]:
    """304 varied texts: odd ones, then 1 to about 90 tokens, then some at and over the model's limit."""
    draw = random.Random(20261123)
    texts = list(_ODD)
    texts += [" ".join(draw.choices(_WORDS, k=1 + int(28 * draw.random() ** 2))) for _ in range(280)]
    return texts + [" ".join(draw.choices(_WORDS, k=tokenizer.max_tokens)) for _ in range(8)]


def probe_texts(tokenizer: Tokenizer) -> list[str]:
    """64 texts from 3 tokens to the model's limit (at most 256, so that a start stays quick), most of them short."""
    draw = random.Random(64)
    longest = min(tokenizer.max_tokens, 256)
    texts = []
    for index in range(64):
        # Most probes have up to 16 tokens; the last ones climb steeply to the longest.
        target = min(longest, 4 + index // 4 if index < 48 else 16 + int((longest - 16) * ((index - 47) / 16) ** 4))
        words = draw.choices(_WORDS, k=target)
        while len(words) > 1 and tokenizer.encode([" ".join(words)], truncate=True).counts[0] >= target:
            words.pop()
        texts.append(" ".join(words))
    return texts


def batches(ids: Sequence[list[int]]) -> Iterator[list[int]]:
    """Every row among its like, then some alone and some beside the longest: padding must not matter."""
    order = plan_batches([len(row) for row in ids], 1024)
    yield from order
    rows = [index for batch in order for index in batch]
    for index in rows[::64]:
        yield [index]
    yield [*rows[:: len(rows) // 7][:7], rows[-1]]


def prove(tokenizer: Tokenizer, reference: Run, exported: Run, progress: Callable[[float], None]) -> Parity:
    """Hold an exported graph against its origin on `parity_texts`.

    Raises:
        ExportRefused: They differ by more than 1e-4 in a component or 0.99999 in cosine, or a value is not finite.
    """
    ids = tokenizer.encode(parity_texts(tokenizer), truncate=True).ids
    planned = list(batches(ids))
    difference, cosine = 0.0, 1.0
    for done, batch in enumerate(planned, start=1):
        tokens = [ids[index] for index in batch]
        wanted, found = reference(tokens), exported(tokens)
        if found.shape != wanted.shape:
            raise ExportRefused(f"parity: the graph gives the shape {found.shape}, torch gives {wanted.shape}")
        if not (np.isfinite(wanted).all() and np.isfinite(found).all()):
            raise ExportRefused("parity: there are values that are not finite")
        difference = max(difference, float(np.abs(found - wanted).max()))
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
        cosine = min(cosine, float(((found * wanted).sum(axis=1) / norms).min()))
        progress(done / len(planned))
    if difference > MAX_ABS_DIFFERENCE or cosine < MIN_COSINE:
        raise ExportRefused(
            f"parity: over {len(ids)} texts the graph differs from torch by up to {difference:.2e} "
            f"(limit {MAX_ABS_DIFFERENCE:.0e}), smallest cosine {cosine:.6f} (limit {MIN_COSINE})"
        )
    return Parity(len(ids), difference, cosine)
