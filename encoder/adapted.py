"""A backbone's session that also runs rows under LoRA adapters: many adapters in one run, one copy of the weights.

Until an adapter is wanted, the plain graph serves. Then the graph is opened once more with branches at the modules that
adapters change, and takes the plain one's place, for rows of the backbone as well; a further adapter that changes other
modules has it opened again. Weights of adapters are ordinary inputs of a run, held by the run for as long as it lasts,
so that an adapter may be dropped at any time.
"""

import threading
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from encoder.batch import Batch, TokenIds, arrange
from encoder.errors import ArtifactRefused, EncoderError, NoProvider
from encoder.lora import Lora, Matrix
from encoder.lora_graph import CHOSEN, Layout, input_name, linear_sites, with_branches
from encoder.runtime import Precision, Provider, Session, Vectors, least_cosine, min_cosine

# Adapters of a batch whose ranks sum to more than this run in several turns: memory and time of a run stay bounded.
MAX_COLUMNS = 512

Rows = Sequence[Lora | None]
"""The adapter of each text of a batch, None for the backbone's own vector."""


@dataclass(frozen=True, slots=True)
class _State:
    """What serves now, swapped whole.

    Attributes:
        session: The runtime's session.
        layout: Its branches, None for the plain graph.
        least: Columns of a run without adapters: 0, or 1 where the provider wants one.
    """

    session: Session
    layout: Layout | None = None
    least: int = 0

    def covers(self, loras: Iterable[Lora]) -> bool:
        """Whether there is a branch, of the right widths, for every module these adapters change."""
        slots = self.layout.slots if self.layout is not None else {}
        return all(set(own) <= set(slots.get(width, ())) for lora in loras for width, own in lora.slots.items())

    def run(self, batch: Batch, chosen: npt.NDArray[np.int64], loras: Sequence[Lora]) -> Vectors:
        """One run; `chosen` gives each text's place in `loras`, -1 for none."""
        feed: dict[str, npt.NDArray[Any]] = batch.feed(packed=self.session.packed)
        if self.layout is not None:
            columns = np.repeat(np.arange(len(loras)), [lora.rank for lora in loras])
            if not loras:
                columns = np.zeros(self.least, dtype=np.int64)
            of_token = np.where(batch.owners >= 0, chosen[batch.owners], -1)
            feed[CHOSEN] = of_token[:, :, None] == columns
            for width in self.layout.slots:
                feed[input_name(width)] = self._stacked(self.layout, width, loras, len(columns))
        return self.session.run_feed(feed)[: len(batch.tokens)]

    @staticmethod
    def _stacked(layout: Layout, width: int, loras: Sequence[Lora], columns: int) -> Matrix:
        """(slots, columns, width) float32: the adapters' matrices of one width side by side."""
        slots = layout.slots[width]
        if loras and all(len(lora.shapes) == len(layout.sites) for lora in loras):  # same modules, hence same order
            stacks = [lora.stacks[width] for lora in loras]
            return stacks[0] if len(stacks) == 1 else np.concatenate(stacks, axis=1)
        stacked = np.zeros((len(slots), columns, width), dtype=np.float32)
        place = {slot: index for index, slot in enumerate(slots)}
        column = 0
        for lora in loras:
            own = [place[slot] for slot in lora.slots.get(width, ())]
            if own:
                stacked[own, column : column + lora.rank] = lora.stacks[width]
            column += lora.rank
        return stacked


class AdaptedSession:
    """A loaded backbone with room for adapters; every method is safe from many threads at once."""

    def __init__(self, session: Session, model: Callable[[], bytes], checks: tuple[TokenIds, Vectors]) -> None:
        """Serve a plain session.

        Args:
            session: The backbone as it was chosen.
            model: Gives the graph that the session was opened from; called when branches are wanted.
            checks: Token ids of some texts and the vectors they must have, by which a graph with branches is proven
                before it serves.
        """
        self._state = _State(session)
        self._model = model
        self._checks = checks
        self._building = threading.Lock()

    @property
    def provider(self) -> Provider:
        """The execution provider."""
        return self._state.session.provider

    @property
    def precision(self) -> Precision:
        """Number format of the matrix products."""
        return self._state.session.precision

    @property
    def threads(self) -> int:
        """Threads of all runs under way, together."""
        return self._state.session.threads

    @property
    def streams(self) -> int:
        """Runs that should be under way at once for the best throughput."""
        return self._state.session.streams

    @property
    def spinning(self) -> bool:
        """Whether idle threads of the runtime wait busily."""
        return self._state.session.spinning

    @property
    def sites(self) -> frozenset[str]:
        """Names of the modules that have a branch now."""
        layout = self._state.layout
        return frozenset() if layout is None else layout.sites

    @property
    def packed(self) -> bool:
        """Whether several texts share a row of the runtime's batches."""
        return self._state.session.packed

    def arrange(self, tokens: TokenIds, max_tokens: int | None = None) -> Batch:
        """Token ids of one batch as `compute` takes them; `max_tokens` is the model's limit."""
        return arrange(tokens, packed=self.packed, max_tokens=max_tokens)

    def run(self, tokens: TokenIds) -> Vectors:
        """The backbone's vectors (n, d) float32 of the texts of one batch.

        Raises:
            EncoderError: The runtime gave values that are not finite.
        """
        return self.compute(self.arrange(tokens), [None] * len(tokens))

    def compute(self, batch: Batch, rows: Rows) -> Vectors:
        """Vectors (n, d) float32 of a batch, each text under its adapter.

        Raises:
            ArtifactRefused: An adapter does not fit the backbone.
            EncoderError: The runtime gave values that are not finite.
        """
        found = {lora.digest: lora for lora in rows if lora is not None}
        loras = list(found.values())
        if not self._state.covers(loras):
            self.prepare(loras)
        state = self._state
        place = {digest: index for index, digest in enumerate(found)}
        chosen = np.array([-1 if lora is None else place[lora.digest] for lora in rows], dtype=np.int64)
        turns = _turns([lora.rank for lora in loras])
        if len(turns) <= 1:
            return state.run(batch, chosen, loras)
        vectors: Vectors | None = None
        for number, (start, stop) in enumerate(turns):
            least = start if number else -1  # the backbone's own texts go first
            own = np.flatnonzero((chosen >= least) & (chosen < stop))
            part = self.arrange([batch.tokens[index] for index in own.tolist()])
            computed = state.run(part, np.maximum(chosen[own] - start, -1), loras[start:stop])
            if vectors is None:
                vectors = np.empty((len(chosen), computed.shape[1]), dtype=np.float32)
            vectors[own] = computed
        assert vectors is not None  # noqa: S101  there were two turns at least
        return vectors

    def prepare(self, loras: Iterable[Lora]) -> None:
        """Make room for adapters where there is none yet; others are served meanwhile.

        Opening a graph takes a second or two for a small backbone, and memory for a second copy until it is done.

        Raises:
            ArtifactRefused: An adapter does not fit the backbone.
            NoProvider: The provider does not take the graph with branches.
        """
        loras = list(loras)
        if self._state.covers(loras):
            return
        with self._building:
            state = self._state
            if state.covers(loras):
                return
            model = self._model()
            check_fit(model, loras)
            wanted = self.sites.union(*(lora.shapes for lora in loras))
            branched, layout = with_branches(model, wanted)
            del model
            self._state = self._proven(state.session.sibling(branched), layout)

    def _proven(self, session: Session, layout: Layout) -> _State:
        """The state with the new session, once it reproduces the backbone's vectors without any adapter."""
        tokens, expected = self._checks
        batch, nothing = arrange(tokens, packed=session.packed), np.full(len(tokens), -1, dtype=np.int64)
        fault, wanted = "", least_cosine(session.precision)
        for least in (0, 1):
            state = _State(session, layout, least)
            try:
                cosine = min_cosine(state.run(batch, nothing, ()), expected)
            except Exception as error:  # noqa: BLE001  a provider may raise anything on an empty input
                fault = type(error).__name__
                continue
            if cosine >= wanted:
                return state
            fault = f"smallest cosine {cosine:.6f}, at least {wanted} is required"
        raise NoProvider(f"{session.provider} in {session.precision} does not run the graph with adapters: {fault}")


def check_fit(model: bytes, loras: Iterable[Lora]) -> None:
    """Hold adapters against the modules of a graph.

    Raises:
        ArtifactRefused: An adapter changes a module that the graph does not have, or one of another shape.
    """
    sites = linear_sites(onnx.load_model_from_string(model))
    for lora in loras:
        for name, shape in lora.shapes.items():
            site = sites.get(name)
            if site is None:
                raise ArtifactRefused(f"the backbone has no Linear module named {name}")
            if shape != (site.width_in, site.width_out):
                raise ArtifactRefused(
                    f"the adapter changes {name} from {shape[0]} to {shape[1]} features, "
                    f"the backbone's has {site.width_in} and {site.width_out}"
                )


def require_rows(texts: Sized, rows: Rows, backbone: str) -> None:
    """Raise where there is not one adapter a text, or one that stands on another backbone.

    Raises:
        EncoderError, ArtifactRefused: as described.
    """
    if len(rows) != len(texts):
        raise EncoderError(f"{len(texts)} texts and {len(rows)} adapters were given")
    if any(lora is not None and lora.manifest.backbone != backbone for lora in rows):
        raise ArtifactRefused("an adapter stands on another backbone")


def _turns(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """Adapters [start, stop) of each run, so that the columns of none exceed `MAX_COLUMNS`."""
    turns: list[tuple[int, int]] = []
    columns = 0
    for index, rank in enumerate(ranks):
        if turns and columns + rank <= MAX_COLUMNS:
            turns[-1] = (turns[-1][0], index + 1)
            columns += rank
        else:
            turns.append((index, index + 1))
            columns = rank
    return turns
