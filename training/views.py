"""Rows without labels made into pairs: two views of one text belong together, those of two texts do not.

Gao, Yao and Chen 2021, "SimCSE" (arXiv 2104.08821), section 3: a text's positive is the text itself under other noise.
Base vectors are cached without dropout, so the noise here is another wording (training/augment.py), dropped components
of the base vector (training/feature_views.py), or both. In a LoRA fit it is the dropout of its branches as well.

What such a fit can be judged by is only whether a text is found from a careless form of itself: the gate's rows are
asked for by perturbations (monitoring/perturbations.py) that no fit was trained on. That says nothing about meaning,
so that such a version never goes live by itself.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Final

from monitoring.perturbations import KINDS as PERTURBATIONS
from monitoring.perturbations import perturb
from registry.row import Row, RowKind
from training.augment import KINDS, Keep, reworded
from training.data import Corpus, Parts

SEVERITY: Final = 2
"""Of the perturbations by which held-out texts are asked for."""
_TRIES: Final = 8


def view_corpus(rows: Sequence[Row], parts: Parts, seed: int) -> Corpus:
    """Each text as the positive of another form of itself.

    Rows to fit are asked for by a wording of training/augment.py, or by themselves where they give nothing to reword
    (then only `feature_dropout` tells the two apart); rows held out by a perturbation.

    Args:
        rows: Unlabelled, in the order that `parts` numbers.
        parts: Who is fitted.
        seed: Of the wordings.
    """
    keep = Keep.of([rows[row].subject for row in parts.fit])
    fitted = set(parts.fit.tolist())
    pairs = [
        Row(anchor=_wording(row.subject, keep, seed) if at in fitted else _careless(row.subject), positive=row.subject)
        for at, row in enumerate(rows)
    ]
    return dataclasses.replace(Corpus.of(pairs, RowKind.PAIRS), views=True)


def _wording(text: str, keep: Keep, seed: int) -> str:
    kinds = _turned(list(KINDS), f"{seed}\0{text}")
    for number in range(_TRIES):
        # Case alone is no other text to a backbone that folds it.
        found = reworded(text, kinds[number % len(kinds)], keep, seed=seed, number=number)
        if found.casefold() != " ".join(text.casefold().split()):
            return found
    return text


def _careless(text: str) -> str:
    """A perturbed form of the text, of the first kind that changes more than its case."""
    for kind in _turned(list(PERTURBATIONS), text):
        (found,) = perturb([text], kind, SEVERITY)
        if found.casefold() != text.casefold():
            return found
    return text


def _turned(kinds: list[str], of: str) -> list[str]:
    """The kinds, from another one for each text."""
    start = hashlib.sha256(of.encode(errors="surrogatepass")).digest()[0] % len(kinds)
    return kinds[start:] + kinds[:start]
