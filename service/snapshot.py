"""What is served at one moment, as immutable values: backbones, adapters, and what answers one request."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from encoder.adapters import Head
from encoder.encoder import Encoder
from encoder.lora import Lora
from monitoring.reference import Reference
from registry.backbones import Backbone
from registry.rollouts import Rollout
from registry.states import JobState
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
    """A version whose adapter reproduced its probes, with the reference its traffic is held against.

    Only live versions carry their reference: it is many times larger than the adapter.
    """

    record: Version
    adapter: Head | Lora
    reference: Reference | None


@dataclass(frozen=True, slots=True)
class AdapterView:
    """An adapter with all its versions.

    Attributes:
        live: Its live version, loaded.
        fault: Why its live version is not the one serving, if so.
        asleep: It has a live version that is not in memory; the first request for it loads it.
    """

    record: Adapter
    versions: tuple[Version, ...]
    live: LoadedVersion | None
    fault: str | None = None
    asleep: bool = False

    def version(self, number: int | None) -> Version | None:
        """The record of the version with this number."""
        return next((v for v in self.versions if v.number == number), None)

    @property
    def live_digest(self) -> str | None:
        """Digest of the version that the registry says is live."""
        record = self.version(self.record.live)
        return record.digest if record is not None else None

    @property
    def serving(self) -> Version | None:
        """The record of the version that answers for the adapter's name, or would once it is loaded."""
        if self.live is not None:
            return self.live.record
        return self.version(self.record.live) if self.asleep else None


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Everything that can be asked for, at one moment. The first backbone is the default.

    `jobs` counts the unfinished jobs by state, `job_recoveries` how often a job outlived its worker; `job_ends` tells
    when an adapter's last job that ended in a state did so; `rollouts` are those that have not ended.
    """

    backbones: Mapping[str, LoadedBackbone] = field(default_factory=dict)
    adapters: Mapping[str, AdapterView] = field(default_factory=dict)
    jobs: Mapping[str, int] = field(default_factory=dict)
    rollouts: tuple[Rollout, ...] = ()
    job_ends: Mapping[tuple[str, JobState], datetime] = field(default_factory=dict)
    job_recoveries: int = 0

    def backbone_of(self, digest: str) -> LoadedBackbone | None:
        """The loaded backbone with this digest."""
        return next((b for b in self.backbones.values() if b.record.digest == digest), None)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What answers one request: a backbone, and the one version whose adapter is applied, if any."""

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

    @property
    def lora(self) -> Lora | None:
        """The adapter inside the backbone, if the version is one."""
        adapter = self.version.adapter if self.version is not None else None
        return adapter if isinstance(adapter, Lora) else None

    async def apply(self, computed: NDArray[np.float32], pool: Pool) -> NDArray[np.float32]:
        """The vectors of this target from what the backbone computed (n, d); many are mapped in a thread of `pool`."""
        head = self.version.adapter if self.version is not None else None
        if not isinstance(head, Head):
            return computed
        if len(computed) <= INLINE_ROWS:
            return head.apply(computed)
        return await pool(head.apply, computed)
