"""From texts to token ids: safe from many threads, never silent about a cut."""

from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers

from encoder.errors import ArtifactRefused, EmptyText, TextTooLong

# A text with more characters than this for each token the model reads is not tokenised to its end: tokenising costs
# time in its length, and no real text comes near (English has 4 to 5 characters a token).
CHARACTERS_PER_TOKEN = 250
# Letters, marks and signs of which any vocabulary lacks some.
_UNHEARD_OF = "\u00e9 \u4e2d\u6587 \u0627\u0644 \U0001f600 \U00012000 \u0378 \u0000 ~ z9"


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Token ids of some texts, in their order.

    Attributes:
        ids: One list of token ids a text, special tokens included.
        counts: Tokens of each text that are embedded; equals the length of its ids.
        truncated: Whether the text was cut.
    """

    ids: list[list[int]]
    counts: list[int]
    truncated: list[bool]


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of a text.

    Attributes:
        id: Its number in the vocabulary.
        text: The characters it stands for, or the token itself where it stands for none.
        special: Whether the tokenizer added it.
        start, stop: Its characters in the text, None where it stands for none.
    """

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Tokenizer:
    """A tokenizer with a fixed limit; every method may be called from many threads at once.

    Two tokenizers of the library are held, one that never cuts (for true counts) and one that always cuts at the
    limit. Switching the settings of a shared one at run time makes concurrent callers fail ("Already borrowed").
    """

    def __init__(self, whole: tokenizers.Tokenizer, cutting: tokenizers.Tokenizer, max_tokens: int):
        self._whole = whole
        self._cutting = cutting
        self.max_tokens = max_tokens
        self.max_characters = max_tokens * CHARACTERS_PER_TOKEN

    @classmethod
    def from_bytes(cls, data: bytes, max_tokens: int) -> "Tokenizer":
        """Read a `tokenizer.json`; its own truncation and padding settings are replaced.

        Raises:
            ArtifactRefused: Not a tokenizer, or special tokens alone fill the limit.
        """
        try:
            text = data.decode("utf-8")
            whole, cutting = tokenizers.Tokenizer.from_str(text), tokenizers.Tokenizer.from_str(text)
            whole.encode(_UNHEARD_OF)  # one without a token for the unknown fails at such a text only
        except BaseException as error:  # the library raises bare Exception, and panics, which are not even that
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise ArtifactRefused(f"tokenizer.json cannot be read: {type(error).__name__}") from error
        if max_tokens <= whole.num_special_tokens_to_add(is_pair=False):
            raise ArtifactRefused(f"a limit of {max_tokens} tokens leaves no room for text")
        for tokenizer in (whole, cutting):
            tokenizer.no_padding()
            tokenizer.no_truncation()
        cutting.enable_truncation(max_tokens)
        return cls(whole, cutting, max_tokens)

    def encode(self, texts: Sequence[str], truncate: bool = False) -> Tokenized:
        """Tokenise texts; one that is too long is refused, or cut if `truncate` is set.

        Characters no encoder can carry (lone surrogates) are read as U+FFFD. Counts are true: they are the tokens
        embedded, special tokens included.

        Raises:
            EmptyText: The first text that is empty or only white space.
            TextTooLong: The first text over the limit, when `truncate` is not set.
        """
        clean = [self._clean(index, text, truncate) for index, text in enumerate(texts)]
        ids = [encoding.ids for encoding in self._whole.encode_batch_fast(clean)]
        truncated = [len(text) > self.max_characters for text in texts]
        long = [index for index, row in enumerate(ids) if len(row) > self.max_tokens]
        if long and not truncate:
            raise TextTooLong(long[0], len(ids[long[0]]), self.max_tokens)
        if long:
            cut = self._cutting.encode_batch_fast([clean[index] for index in long])
            for index, encoding in zip(long, cut, strict=True):
                ids[index] = encoding.ids
                truncated[index] = True
        return Tokenized(ids, [len(row) for row in ids], truncated)

    def pieces(self, index: int, text: str, special: bool = True) -> list[Piece]:
        """The tokens of one text, however many; `special` adds what the model wants around them.

        Raises:
            EmptyText, TextTooLong: For the text at `index`; too long is only what no model of this limit could read.
        """
        clean = self._clean(index, text, truncate=False)
        encoding = self._whole.encode(clean, add_special_tokens=special)
        return [
            Piece(number, token, True, None, None) if added else Piece(number, clean[start:stop], False, start, stop)
            for number, token, added, (start, stop) in zip(
                encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
            )
        ]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text that token ids stand for.

        Raises:
            ValueError: An id is not in the vocabulary.
        """
        size = self._whole.get_vocab_size()
        if not all(0 <= number < size for number in ids):
            raise ValueError(f"a token id is not from 0 to {size - 1}")
        return str(self._whole.decode(list(ids), skip_special_tokens=skip_special))

    def head(self, text: str, tokens: int) -> str:
        """The beginning of a text with at most so many tokens, special ones not counted; all of it if it has fewer."""
        readable = encodable(text[: self.max_characters])
        ends = [stop for _, stop in self._whole.encode(readable, add_special_tokens=False).offsets]
        return text if len(ends) <= tokens else readable[: ends[tokens - 1]]

    def _clean(self, index: int, text: str, truncate: bool) -> str:
        """The text as the tokenizer library can read it, at most `max_characters` long."""
        if not text or text.isspace():
            raise EmptyText(index)
        if len(text) > self.max_characters:
            # White space in front would otherwise push all that is worth reading behind the cut.
            start = text.lstrip()[: self.max_characters]
            if not truncate:
                tokens = len(self._whole.encode(encodable(start)).ids)
                raise TextTooLong(index, tokens, self.max_tokens, characters=len(text))
            text = start
        return encodable(text)


def encodable(text: str) -> str:
    """The text as UTF-8 can carry it: surrogate pairs joined and lone surrogates replaced by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
