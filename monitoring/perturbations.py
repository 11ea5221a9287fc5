"""Texts as careless writers send them: seeded perturbations of several kinds and severities that keep a text's label.

Every kind is bounded so that a reader would still give the text its label: numbers and negations stay, most words stay,
and a typo changes one letter of a longer word and never its first. Where a text gives a kind nothing to work on (one
clause cannot be swapped) it comes back unchanged.
"""

import hashlib
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

SEVERITIES: Final = (1, 2, 3)
_TYPO_SHARES: Final = (0.1, 0.25, 0.4)
_DROP_SHARES: Final = (0.1, 0.2, 0.3)
_KEPT_SHARES: Final = (0.9, 0.75, 0.6)
_LEAST_WORDS: Final = 3
_LEAST_LETTERS: Final = 4
_NEGATIONS: Final = frozenset(
    {"no", "not", "never", "none", "nothing", "nobody", "nowhere", "neither", "nor", "without", "unable", "cannot"}
)
_SHORTENED: Final = re.compile(r"n['’]?t$")
"""The end of don't, can't, wasnt; other words that end so are kept too, which does no harm."""
_ROWS: Final = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_CLAUSE: Final = re.compile(r"(?<=[,;.!?:])\s+|\s+(?=(?:and|but|because|so|or|when|if)\s)", re.IGNORECASE)
_MARKS: Final = re.compile(r"(?<!\w)[^\w\s]+|[^\w\s]+(?!\w)")


def _neighbours() -> dict[str, str]:
    """The keys next to each letter on a QWERTY keyboard: in its row, and in the rows above and below."""
    found: dict[str, str] = {}
    for row, keys in enumerate(_ROWS):
        for place, key in enumerate(keys):
            near = [keys[at] for at in (place - 1, place + 1) if 0 <= at < len(keys)]
            for other, shifts in ((row - 1, (0, 1)), (row + 1, (-1, 0))):
                if 0 <= other < len(_ROWS):
                    line = _ROWS[other]
                    near += [line[place + shift] for shift in shifts if 0 <= place + shift < len(line)]
            found[key] = "".join(near)
    return found


NEIGHBOURS: Final[Mapping[str, str]] = _neighbours()


def typos(words: list[str], severity: int, rng: random.Random) -> str:
    """One slip in a share of the longer words: a neighbouring key, two letters swapped, one missing, or one doubled."""
    slips = [place for place, word in enumerate(words) if len(word) >= _LEAST_LETTERS and not _fixed(word)]
    if slips:
        for place in rng.sample(slips, math.ceil(_TYPO_SHARES[severity - 1] * len(slips))):
            words[place] = _slip(words[place], rng)
    return " ".join(words)


def case(words: list[str], severity: int, rng: random.Random) -> str:
    """All letters small; all capital; each at random."""
    text = " ".join(words)
    if severity == 1:
        return text.lower()
    if severity == 2:
        return text.upper()
    return "".join(letter.upper() if rng.random() < 0.5 else letter.lower() for letter in text)


def dropped_words(words: list[str], severity: int, rng: random.Random) -> str:
    """A share of the words left out, of a text with more than three."""
    loose = [place for place, word in enumerate(words) if not _fixed(word)]
    count = min(math.ceil(_DROP_SHARES[severity - 1] * len(words)), len(words) - _LEAST_WORDS, len(loose))
    gone = set(rng.sample(loose, max(0, count)))
    return " ".join(word for place, word in enumerate(words) if place not in gone)


def truncation(words: list[str], severity: int, rng: random.Random) -> str:
    """The end cut off; nothing is cut before the last number or negation."""
    del rng
    last_fixed = max((place for place, word in enumerate(words) if _fixed(word)), default=-1)
    return " ".join(words[: max(math.ceil(_KEPT_SHARES[severity - 1] * len(words)), _LEAST_WORDS, last_fixed + 1)])


def swapped_clauses(words: list[str], severity: int, rng: random.Random) -> str:
    """Clauses in another order: two neighbours swapped; the last one first; all shuffled."""
    clauses = [clause for clause in _CLAUSE.split(" ".join(words)) if clause]
    if severity == 1 and len(clauses) > 1:
        place = rng.randrange(len(clauses) - 1)
        clauses[place : place + 2] = clauses[place + 1], clauses[place]
    elif severity == 2:
        clauses = clauses[-1:] + clauses[:-1]
    elif severity == 3:
        rng.shuffle(clauses)
    return " ".join(clauses)


def spacing(words: list[str], severity: int, rng: random.Random) -> str:
    """Marks and spaces: the last mark gone; all marks around words gone; that, with odd spaces and two words joined."""
    text = " ".join(words)
    if severity == 1:
        return re.sub(r"[^\w\s]+$", "", text)
    bare = _MARKS.sub("", text).split()
    if severity == 2 or not bare:
        return " ".join(bare)
    joins = [place for place in range(len(bare) - 1) if not (_fixed(bare[place]) or _fixed(bare[place + 1]))]
    joined = rng.choice(joins) if joins else -1
    spaces = ["" if place == joined else rng.choice([" ", "  ", "\t", " \n"]) for place in range(len(bare))]
    return "".join(word + space for word, space in zip(bare, spaces, strict=True)).rstrip()


KINDS: Final[Mapping[str, Callable[[list[str], int, random.Random], str]]] = {
    "typos": typos,
    "case": case,
    "dropped_words": dropped_words,
    "truncation": truncation,
    "swapped_clauses": swapped_clauses,
    "spacing": spacing,
}


def perturb(texts: Sequence[str], kind: str, severity: int, *, seed: int = 0) -> list[str]:
    """The texts under one kind of perturbation; a text's result depends on itself, kind, severity and seed alone.

    No text with a visible character becomes empty.

    Raises:
        ValueError: An unknown kind or severity.
    """
    if kind not in KINDS or severity not in SEVERITIES:
        raise ValueError(f"kinds are {', '.join(KINDS)}; severities are 1 to {len(SEVERITIES)}")
    found = []
    for text in texts:
        told = f"{seed}\0{kind}\0{severity}\0{text}".encode(errors="surrogatepass")
        rng = random.Random(int.from_bytes(hashlib.sha256(told).digest()[:8], "big"))
        changed = KINDS[kind](text.split(), severity, rng)
        found.append(changed if changed.strip() else text)
    return found


def _fixed(word: str) -> bool:
    """Whether a word must stay: a negation, or anything with a digit."""
    plain = re.sub(r"[^a-z'’]", "", word.lower()).strip("'’")
    return plain in _NEGATIONS or bool(_SHORTENED.search(plain)) or bool(re.search(r"\d", word))


def _slip(word: str, rng: random.Random) -> str:
    """The word with one slip after its first letter; its marks stay where they are."""
    places = [place for place, letter in enumerate(word) if letter.isalpha()][1:]
    if not places:
        return word
    place = rng.choice(places)
    near = NEIGHBOURS.get(word[place].lower(), "")
    slip = rng.randrange(4)
    if slip == 0 and near:
        key = rng.choice(near)
        return word[:place] + (key.upper() if word[place].isupper() else key) + word[place + 1 :]
    if slip == 1 and place + 1 < len(word) and word[place + 1].isalpha():
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if slip == 2:
        return word[:place] + word[place + 1 :]
    return word[:place] + word[place] + word[place:]
