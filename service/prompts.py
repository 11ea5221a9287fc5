"""The text that goes in front of a query or a document, as the backbone's manifest gives it.

Models such as E5 were trained with prompts ("query: ", "passage: "). A request names one (`prompt_name`), or says what
its texts are for as Cohere (`input_type`), Jina (`task`) and others do; then the backbone's prompt for that purpose is
taken, where it has one. The prompt becomes part of the text before it is looked up, tokenised and counted: the cache
needs no other key for it, and `usage` counts its tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.errors import invalid
from service.settings import Settings
from service.snapshot import Target


@dataclass(frozen=True, slots=True)
class PromptChoice:
    """What a request says about the prompt.

    Attributes:
        name: A prompt the backbone must have, or None.
        purpose: Names of prompts that suit what the texts are for; the first one the backbone has is taken.
    """

    name: str | None = None
    purpose: tuple[str, ...] = ()


# What sentence-transformers models call the prompts of the two sides of a search.
QUERY = PromptChoice(purpose=("query", "search_query", "retrieval.query"))
DOCUMENT = PromptChoice(purpose=("document", "passage", "search_document", "retrieval.passage", "corpus"))

_PURPOSES = {name: choice.purpose for choice in (QUERY, DOCUMENT) for name in choice.purpose}


def prompt_choice(value: Mapping[str, Any]) -> PromptChoice:
    """Read `prompt_name`, `input_type` and `task` of a body.

    Raises:
        Problem: 422 when one is not a string.
    """
    name, input_type, task = (_string(value, field) for field in ("prompt_name", "input_type", "task"))
    purpose = input_type or task
    if name is None and purpose is None:
        return NO_CHOICE
    return PromptChoice(name, () if purpose is None else _PURPOSES.get(purpose, (purpose,)))


NO_CHOICE = PromptChoice()


def prompt_text(prompts: Mapping[str, str], choice: PromptChoice, default: str | None) -> str:
    """The prompt to put in front, "" for none.

    Args:
        prompts: What the backbone has: name -> text.
        default: Name of the prompt taken where the request leaves it open and the backbone has it.

    Raises:
        Problem: 422 when the request names a prompt that the backbone does not have.
    """
    if choice.name is not None:
        if choice.name not in prompts:
            known = f"this model has {', '.join(sorted(prompts))}" if prompts else "this model has no prompts"
            raise invalid("prompt_name", f"is not known: {known}")
        return prompts[choice.name]
    if not prompts:
        return ""
    if not choice.purpose:  # a stated purpose without a prompt of its own must not get another's
        return prompts.get(default, "") if default is not None else ""
    return next((prompts[name] for name in choice.purpose if name in prompts), "")


def prompted(settings: Settings, target: Target, choice: PromptChoice, texts: Sequence[str]) -> list[str]:
    """The texts as the target's backbone is to read them: with the prompt in front, if there is one.

    Raises:
        Problem: as `prompt_text`.
    """
    prompt = prompt_text(target.backbone.encoder.manifest.prompts, choice, settings.default_prompt_name)
    return [prompt + text for text in texts] if prompt else list(texts)


def _string(value: Mapping[str, Any], name: str) -> str | None:
    found = value.get(name)
    if found is not None and not isinstance(found, str):
        raise invalid(name, "must be a string")
    return found
