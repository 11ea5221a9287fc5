"""Names of adapters, datasets and models: one pattern, checked before a name is stored or looked up."""

import re

from registry.errors import InvalidName

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Backbones keep the name the world gave them, capitals included.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# SQL integers are 64-bit and PostgreSQL's INTEGER 32-bit: nine digits fit both.
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


def valid_name(name: str) -> str:
    """Return the name of an adapter or dataset unchanged.

    Raises InvalidName when it is not 1 to 64 lower-case letters, digits, dots, underscores and hyphens, starting
    with a letter or digit.
    """
    if not _NAME.fullmatch(name):
        raise InvalidName(
            "a name has 1 to 64 lower-case letters, digits, '.', '_' and '-', and starts with a letter or digit"
        )
    return name


def valid_backbone_name(name: str) -> str:
    """Return a backbone's name unchanged; as `valid_name`, but capitals are allowed. Raises InvalidName."""
    if not _MODEL.fullmatch(name):
        raise InvalidName(
            "a backbone's name has 1 to 64 letters, digits, '.', '_' and '-', and starts with a letter or digit"
        )
    return name


def valid_digest(digest: str) -> str:
    """Return a SHA-256 in lower-case hexadecimal unchanged. Raises InvalidName for anything else."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidName("a digest is 64 lower-case hexadecimal digits")
    return digest


def is_digest(word: str) -> bool:
    """Whether a word is a SHA-256 in lower-case hexadecimal."""
    return _DIGEST.fullmatch(word) is not None


def storable(name: str) -> bool:
    """Whether a name may be looked up at all: databases refuse some characters, and differ in which."""
    return 0 < len(name) <= 128 and name.isascii() and name.isprintable()


def storable_number(number: int) -> bool:
    """Whether a version or revision can have that number: it fits a column of both databases."""
    return 0 < number < 2**31


def parse_model(model: str) -> tuple[str, int | None]:
    """Split a model's name into name and version number: `banking@7` -> ("banking", 7), `banking` -> ("banking", None).

    Raises InvalidName when either part is malformed; whether such a model exists is not looked at.
    """
    name, at, number = model.partition("@")
    if not _MODEL.fullmatch(name) or (at and not _NUMBER.fullmatch(number)):
        raise InvalidName("a model is a name, or a name, '@' and a version number such as banking@7")
    return name, int(number) if at else None
