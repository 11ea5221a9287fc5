"""The gate asked once more about any two stored versions: measured as served, judged on rows that neither has seen.

Nothing is changed but the count of verdicts on these rows, by which the gate's level shrinks. The same question asked
again, of the same two versions on the same rows, is the use it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from encoder.adapters import Head
from encoder.encoder import Encoder
from encoder.lora_manifest import LoraManifest
from encoder.manifest import Fetch
from monitoring.gate import Verdict
from monitoring.limits import laxer_fields
from monitoring.recipe import Recipe
from registry import gate_uses
from registry.registry import Registry
from registry.versions import Version
from training.contenders import Model
from training.errors import DataRefused
from training.evaluation import leakage_of
from training.evaluation_run import measure, verdict_of
from training.gate_set import gate_set_of
from training.generic import generic_texts
from training.problem import Vectors
from training.rejudge_rows import Contestant, Ground, other_ground, own_ground
from training.served import Encode, encode_with

Tell = Callable[[float, str], None]
"""Called with the share done, in [0, 1], of what the words name."""
BASE: Final = "base"
"""The rival's name where it is the bare backbone."""
_CHUNK: Final = 512
"""Texts that are encoded between two words of progress."""


@dataclass(frozen=True, eq=False)
class Question:
    """Is the candidate better than its rival, a version or the bare backbone (None), on these rows?"""

    candidate: Contestant
    rival: Contestant | None
    recipe: Recipe
    ground: Ground

    @classmethod
    def of(
        cls,
        registry: Registry,
        candidate: Version,
        rival: Version | None,
        *,
        dataset: tuple[str, int | None] | None = None,
        unseen: bool = False,
    ) -> "Question":
        """Check that the question can be asked, and find its rows. Nothing is encoded yet.

        Args:
            registry: Holds both versions.
            candidate: Its dataset, seed and gate settings are used.
            rival: None for the bare backbone.
            dataset: Name and revision of another dataset to judge on; None for the candidate's own.
            unseen: The caller's word that versions which do not say what they were fitted on have not seen `dataset`.

        Raises:
            DataRefused: The versions are the same or stand on different backbones, or no row may be judged.
            NotFound: The dataset is not there.
            ArtifactRefused: A manifest is damaged.
        """
        asked = [Contestant.of(version, registry.fetch) for version in (candidate, rival) if version is not None]
        first, other = asked[0], asked[1] if rival is not None else None
        if other is not None and other.digest == first.digest:
            raise DataRefused(f"{first.name} and {other.name} are one and the same; name two different versions")
        if other is not None and other.backbone != first.backbone:
            raise DataRefused(
                f"{first.name} and {other.name} stand on different backbones, which the gate cannot compare; "
                "name a rival on the same backbone, or base"
            )
        if dataset is None:
            ground = own_ground(registry, asked)
        else:
            ground = other_ground(registry, asked, *dataset, unseen=unseen)
        return cls(first, other, first.judging(), ground)

    @property
    def key(self) -> str:
        """What the question is counted under."""
        return f"gate:{self.candidate.name}:{self.rival.name if self.rival else BASE}"


@dataclass(frozen=True, eq=False)
class Rejudged:
    """The answer: the verdict, and which verdict on these rows it was."""

    question: Question
    use: int
    verdict: Verdict

    @property
    def laxer(self) -> list[str]:
        """Fields in which the candidate's recipe asks the gate for less than the defaults do."""
        return laxer_fields(self.question.recipe.gate_settings())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        question, ground = self.question, self.question.ground
        return {
            "candidate": question.candidate.name,
            "rival": question.rival.name if question.rival else BASE,
            "dataset": {
                "name": ground.dataset.name,
                "revision": ground.dataset.revision,
                "digest": ground.dataset.digest,
                "kind": str(ground.dataset.kind),
            },
            "rows": {"judged": len(ground.parts.judged), "left_out": ground.left_out, "dataset": len(ground.rows)},
            "vouched_unseen": list(ground.vouched),
            "laxer_than_default": self.laxer,
            "use": self.use,
            "verdict": self.verdict.to_json(),
        }


def rejudge(registry: Registry, question: Question, encoder: Encoder, *, by: str, tell: Tell) -> Rejudged:
    """Measure both versions and the backbone on the question's rows, count the use, and ask the gate.

    Args:
        registry: Holds the versions, and the count of uses.
        question: What is asked.
        encoder: The backbone of both, as it is served.
        by: Who asks, for the event that counts the use.
        tell: Told of progress.

    Raises:
        ArtifactRefused: A version's artifact is damaged or does not reproduce its probes.
        DataRefused: The gate's primary metric is not measured on rows of this kind. No use is counted then.
    """
    ground, recipe = question.ground, question.recipe
    models = _models(question, encoder, registry.fetch, tell)
    measured = measure(ground.corpus, ground.rows, ground.parts, models, recipe, tell)
    primary = recipe.gate_settings().primary
    if primary not in measured.found["candidate"].scores:
        raise DataRefused(
            f"{question.candidate.name} is judged by {primary}, which is not measured on {ground.dataset.kind} rows; "
            "name another dataset"
        )
    # Beside what this dataset's parts tell, whatever a version was fitted on under another seed or from another file.
    known = replace(ground.parts, fit=np.union1d(ground.parts.fit, ground.seen))
    leakage = leakage_of(ground.corpus, known, recipe)
    with registry.writing() as session:
        use = gate_uses.claim(
            session,
            gate_set_of(ground.rows, ground.parts.judged),
            key=question.key,
            subject=f"{ground.dataset.name}@{ground.dataset.revision}",
            by=by,
        )
    return Rejudged(question, use, verdict_of(measured.arrays(), recipe, leakage, use))


class _Last:
    """An encoding that remembers its last texts: every head asks the backbone for the same."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._last: tuple[list[str], Vectors] | None = None

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Vectors (m, d) float32."""
        asked = list(texts)
        if self._last is None or self._last[0] != asked:
            self._last = (asked, self._encode(asked))
        return self._last[1]


def _models(question: Question, encoder: Encoder, fetch: Fetch, tell: Tell) -> dict[str, Model]:
    """The models by the gate's names for them: base, candidate and, where the rival is a version, champion."""
    base = _Last(_telling(encode_with(encoder, fetch, None, ""), "the backbone", tell))
    encodes: dict[str, Encode] = {"base": base, "candidate": _served(question.candidate, encoder, fetch, base, tell)}
    if question.rival is not None:
        encodes["champion"] = _served(question.rival, encoder, fetch, base, tell)
    own = question.ground.corpus.texts
    texts = [*own, *generic_texts()]
    found = {}
    for name, encode in encodes.items():
        vectors = encode(texts)
        found[name] = Model(vectors[: len(own)], vectors[len(own) :], encode)
    return found


def _served(version: Contestant, encoder: Encoder, fetch: Fetch, base: Encode, tell: Tell) -> Encode:
    if version.kind == LoraManifest.KIND:
        return _telling(encode_with(encoder, fetch, version.kind, version.digest), version.name, tell)
    head = Head.open(version.digest, fetch)
    return lambda texts: head.apply(base(texts))


def _telling(encode: Encode, name: str, tell: Tell) -> Encode:
    """The same encoding, in chunks between which progress is told."""

    def encoded(texts: Sequence[str]) -> Vectors:
        found = []
        for start in range(0, len(texts), _CHUNK):
            tell(start / len(texts), f"encoding with {name}")
            found.append(encode(texts[start : start + _CHUNK]))
        return np.concatenate(found)

    return encoded
