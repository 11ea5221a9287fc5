"""Everything that can go wrong between a text and its vector, as exceptions that never repeat the text."""

_LONGEST = 1000


class EncoderError(Exception):
    """Base of every error this package raises on purpose."""


class ArtifactRefused(EncoderError):
    """A manifest, graph, tokenizer or probe file is not what it must be; the message names the file and the fault.

    It may quote names that stand in the file: what UTF-8 cannot carry is replaced there, and a long message is cut.
    """

    def __init__(self, message: str) -> None:
        readable = message.encode("utf-8", "replace").decode()
        super().__init__(readable if len(readable) <= _LONGEST else readable[:_LONGEST] + "…")


class NoProvider(EncoderError):
    """No execution provider of this machine reproduces the model's probe vectors, or the one asked for is not here."""


class InputRefused(EncoderError):
    """One text of a call cannot be encoded.

    Attributes:
        index: Position of the text in the list that was given.
    """

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


class EmptyText(InputRefused):
    """A text is empty or holds nothing but white space."""

    def __init__(self, index: int) -> None:
        super().__init__(index, f"text {index} is empty")


class TextTooLong(InputRefused):
    """A text has more tokens than the model reads, or more characters than are worth counting.

    Attributes:
        tokens: Tokens of the text, special tokens included. Where `characters` is set, only the tokens of its
            beginning: a text that long is refused without being read to its end.
        limit: Tokens the model reads.
        characters: Length of the text in characters if that was the reason, else None.
    """

    def __init__(self, index: int, tokens: int, limit: int, *, characters: int | None = None) -> None:
        if characters is None:
            message = f"text {index} has {tokens} tokens, the limit is {limit}"
        else:
            message = f"text {index} has {characters} characters, far more than the limit of {limit} tokens can hold"
        super().__init__(index, message)
        self.tokens = tokens
        self.limit = limit
        self.characters = characters
