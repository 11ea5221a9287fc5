"""Letters and colours by which the labels of a map are told apart, in the picture and in its legend."""

from typing import Final

LETTERS: Final = "ABCDEF"
GROUP_COLOURS: Final = ("#0f6f8c", "#c8553d", "#7a6ab0", "#5c8a3a", "#b8862b", "#a34d7f")
