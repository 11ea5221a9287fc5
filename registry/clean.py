"""Free words of a caller (who asked, why, what failed) made fit for every database."""

MAX_WORDS = 2_000
"""Characters kept of a reason, an error or an actor's name."""


def clean(words: str) -> str:
    """The words without characters PostgreSQL refuses (NUL, lone surrogates), cut at `MAX_WORDS` characters."""
    words = words.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return words if len(words) <= MAX_WORDS else words[: MAX_WORDS - 1] + "…"


def clean_or_none(words: str | None) -> str | None:
    """As `clean`; None stays None."""
    return None if words is None else clean(words)
