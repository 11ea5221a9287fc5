"""Other wordings of fitted texts, changed so little that their label or answer stays: seeded, bounded, fit rows only.

What "so little" means, and the tests hold it as properties:

* A word that may carry the label is kept to the letter: numbers, negations and limits (not, without, only, ...), words
  that prefer few labels, and of each text the third of its words that are rarest in the dataset.
* Of the other words at most MAX_SHARE are changed or left out, by at most one slip a word; the first letter stays.
* A text keeps at least LEAST_WORDS words, and clauses change places only at punctuation.
* No wording repeats a text of the dataset, case, punctuation and spaces aside.

They are milder than the perturbations of monitoring/perturbations.py, drawn from other random streams, and made of rows
to fit alone, while robustness is judged on rows held out: what judges was not trained on word for word.
"""

import hashlib
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from registry.near import normal_form

MAX_SHARE: Final = 0.2
"""Of the words that may be touched at all, the most that are."""
LEAST_WORDS: Final = 3
_LEAST_LETTERS: Final = 4
_TRIES: Final = 4
_LIMITS: Final = frozenset(
    {
        "no",
        "not",
        "never",
        "none",
        "nothing",
        "nobody",
        "nowhere",
        "neither",
        "nor",
        "without",
        "cannot",
        "unable",
        "only",
        "except",
        "unless",
        "until",
        "before",
        "after",
        "instead",
        "but",
        "hardly",
        "barely",
        "already",
        "still",
        "yet",
        "more",
        "less",
        "most",
        "least",
        "all",
        "any",
        "both",
        "either",
    }
)
_SHORTENED: Final = re.compile(r"n['’]?t$")
_CLAUSES: Final = re.compile(r"(?<=[,;.!?:])\s+")


@dataclass(frozen=True, slots=True)
class Keep:
    """Which words of a dataset's fit rows may carry a label.

    Attributes:
        counts: In how many rows each word stands.
        owned: Words of at least two rows that prefer some labels: their rows spread over less than half as many labels
            as rows drawn at random would (labels are counted as the exponential of their entropy, less one).
    """

    counts: Mapping[str, int]
    owned: frozenset[str]

    @classmethod
    def of(cls, texts: Sequence[str], labels: Sequence[str] | None = None) -> "Keep":
        """Learn from the rows to fit; without labels only rareness speaks."""
        counts: Counter[str] = Counter()
        by_word: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for at, text in enumerate(texts):
            for word in {_bare(word) for word in text.split()}:
                counts[word] += 1
                if labels is not None:
                    by_word[word][labels[at]] += 1
        shares = np.array(list(Counter(labels or ()).values())) / max(1, len(texts))
        owned = {
            word
            for word, found in by_word.items()
            if counts[word] > 1 and 2 * (_spread(found) - 1) <= (1 - (1 - shares) ** counts[word]).sum() - 1
        }
        return cls(counts, frozenset(owned))

    def loose(self, words: Sequence[str]) -> list[int]:
        """Places of the words that may be touched, ascending."""
        rarest = sorted(range(len(words)), key=lambda place: self.counts.get(_bare(words[place]), 0))
        kept = set(rarest[: math.ceil(len(words) / 3)])
        return [
            place
            for place, word in enumerate(words)
            if place not in kept and _bare(word) not in self.owned and not _fixed(word)
        ]


def _spread(found: Counter[str]) -> float:
    """The exponential of the entropy of some counts: 1 where one label has all, their number where they are equal."""
    shares = np.array(list(found.values())) / found.total()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _typos(words: list[str], loose: Sequence[int], rng: random.Random) -> list[str]:
    """One slip in some longer words: two letters swapped, one missing, or one doubled."""
    places = [place for place in loose if len(_bare(words[place])) >= _LEAST_LETTERS]
    for place in rng.sample(places, min(len(places), _most(loose))):
        words[place] = _slip(words[place], rng)
    return words


def _case(words: list[str], loose: Sequence[int], rng: random.Random) -> list[str]:
    """Some words in capitals, or with a capital, or small."""
    change = rng.choice((str.upper, str.capitalize, str.lower))
    for place in rng.sample(loose, _most(loose)):
        words[place] = change(words[place])
    return words


def _dropped(words: list[str], loose: Sequence[int], rng: random.Random) -> list[str]:
    """Some words left out."""
    gone = set(rng.sample(loose, min(_most(loose), max(0, len(words) - LEAST_WORDS))))
    return [word for place, word in enumerate(words) if place not in gone]


def _cut(words: list[str], loose: Sequence[int], rng: random.Random) -> list[str]:
    """Some words cut off at one end, as far as all of them may go."""
    most = min(_most(loose), max(0, len(words) - LEAST_WORDS))
    free = set(loose)
    for end in rng.sample((0, -1), 2):
        left = list(range(len(words)))
        while len(words) - len(left) < most and left[end] in free:
            left.pop(end)
        if len(left) < len(words):
            return [words[place] for place in left]
    return words


def _swapped(words: list[str], loose: Sequence[int], rng: random.Random) -> list[str]:
    """Two neighbouring clauses in the other order."""
    clauses = _CLAUSES.split(" ".join(words))
    if len(clauses) < 2:
        return words
    place = rng.randrange(len(clauses) - 1)
    clauses[place : place + 2] = clauses[place + 1], clauses[place]
    return " ".join(clauses).split()


KINDS: Final[Mapping[str, Callable[[list[str], Sequence[int], random.Random], list[str]]]] = {
    "typos": _typos,
    "case": _case,
    "word dropout": _dropped,
    "truncation": _cut,
    "clause shuffling": _swapped,
}


@dataclass(frozen=True, slots=True)
class Wording:
    """Another wording: the place of its text among those given, what was done to it, and the text."""

    of: int
    kind: str
    text: str


def reworded(text: str, kind: str, keep: Keep, *, seed: int, number: int = 0) -> str:
    """One wording of a text; the text itself, its spaces folded, where it gives the kind nothing to work on.

    It depends on its arguments alone.

    Raises:
        KeyError: There is no such kind.
    """
    told = f"augment\0{seed}\0{number}\0{kind}\0{text}".encode(errors="surrogatepass")
    rng = random.Random(int.from_bytes(hashlib.sha256(told).digest()[:8], "big"))
    words = text.split()
    return " ".join(KINDS[kind](list(words), keep.loose(words), rng))


def wordings(
    texts: Sequence[str], count: int, keep: Keep, *, seed: int, taken: Collection[str] = (), kinds: Sequence[str] = ()
) -> list[Wording]:
    """Up to `count` different wordings, as many of each text as of any other where texts allow it.

    Args:
        texts: (n,) the texts to fit.
        count: Wordings wanted; each costs an encoding. Fewer come where texts give no more.
        keep: What must stay.
        seed: Of all draws.
        taken: Further texts that no wording may repeat, beside `texts` themselves.
        kinds: Of KINDS; none given: all.
    """
    kinds = kinds or tuple(KINDS)
    seen = {normal_form(text) for text in texts} | {normal_form(text) for text in taken}
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    found: list[Wording] = []
    # Kinds take turns, from another one for each text, so that none fills the budget alone.
    for number in range(_TRIES * len(kinds)):
        for turn, place in enumerate(order):
            if len(found) >= count:
                return found
            kind = kinds[(turn + number) % len(kinds)]
            text = reworded(texts[place], kind, keep, seed=seed, number=number)
            form = normal_form(text)
            if form and form not in seen:
                seen.add(form)
                found.append(Wording(place, kind, text))
    return found


def _most(loose: Sequence[int]) -> int:
    """How many of the loose words are touched: at most MAX_SHARE of them, at least one where there is one."""
    return min(len(loose), max(1, int(MAX_SHARE * len(loose))))


def _bare(word: str) -> str:
    return re.sub(r"[^\w]", "", word.casefold())


def _fixed(word: str) -> bool:
    """Whether a word must stay in any text: a negation, a limit, or anything with a digit."""
    plain = re.sub(r"[^a-z'’]", "", word.lower()).strip("'’")
    return plain in _LIMITS or bool(_SHORTENED.search(plain)) or any(letter.isdigit() for letter in word)


def _slip(word: str, rng: random.Random) -> str:
    """The word with one slip behind its first letter; marks stay where they are."""
    places = [place for place, letter in enumerate(word) if letter.isalpha()][1:]
    if not places:
        return word
    place = rng.choice(places)
    slip = rng.randrange(3)
    if slip == 0 and place + 1 < len(word) and word[place + 1].isalpha():
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    return word[:place] + word[place + 1 :] if slip == 1 else word[:place] + word[place] + word[place:]
