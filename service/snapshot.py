"""What is served at one moment, as immutable values: backbones, adapters, and what answers one request."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from encoder.adapters import Head
from encoder.encoder import Encoder
from monitoring.reference import Reference
from registry.backbones import Backbone
from registry.versions import Adapter, Version
from service.embedder import Embedder
from service.threads import Pool

# Heads are applied in place to this many rows; more go to a thread (a 384-wide head takes about 20 us a row).
INLINE_ROWS = 64


@dataclass(frozen=True, slots=True, eq=False)
class LoadedBackbone:
    """A backbone that serves."""

    record: Backbone
    encoder: Encoder
    embedder: Embedder


@dataclass(frozen=True, slots=True, eq=False)
class LoadedVersion:
    """A version whose head reproduced its probes, with the reference its traffic is held against.

    Only live versions carry their reference: it is many times larger than the head.
    """

    record: Version
    head: Head
    reference: Reference | None


@dataclass(frozen=True, slots=True)
class AdapterView:
    """An adapter with all its versions; `fault` says why its live version is not the one serving, if so."""

    record: Adapter
    versions: tuple[Version, ...]
    live: LoadedVersion | None
    fault: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Everything that can be asked for, at one moment. The first backbone is the default.

    `jobs` counts the unfinished jobs by state.
    """

    backbones: Mapping[str, LoadedBackbone] = field(default_factory=dict)
    adapters: Mapping[str, AdapterView] = field(default_factory=dict)
    jobs: Mapping[str, int] = field(default_factory=dict)

    def backbone_of(self, digest: str) -> LoadedBackbone | None:
        """The loaded backbone with this digest."""
        return next((b for b in self.backbones.values() if b.record.digest == digest), None)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What answers one request: a backbone, and the one version whose head is applied, if any."""

    backbone: LoadedBackbone
    version: LoadedVersion | None

    @property
    def name(self) -> str:
        """`banking@3`, or the backbone's name."""
        return self.backbone.record.name if self.version is None else self.version.record.name

    @property
    def family(self) -> str:
        """The adapter's or backbone's name without a version: a bounded label."""
        return self.backbone.record.name if self.version is None else self.version.record.adapter

    async def apply(self, base: NDArray[np.float32], pool: Pool) -> NDArray[np.float32]:
        """The vectors of this target from base vectors (n, d); many are computed in a thread of `pool`."""
        if self.version is None:
            return base
        if len(base) <= INLINE_ROWS:
            return self.version.head.apply(base)
        return await pool(self.version.head.apply, base)
