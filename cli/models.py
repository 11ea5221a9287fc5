"""A model's name as a command takes it: which backbone and version it means now, and how to open exactly that."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import Conflict, NotFound
from registry.home import Home
from registry.names import parse_model
from registry.registry import Registry

if TYPE_CHECKING:
    from encoder.bulk.model import Model


@dataclass(frozen=True, slots=True)
class Meant:
    """What a model name means: digests, so that a live pointer that moves meanwhile changes nothing.

    Attributes:
        name: The backbone's name, or the adapter's with its number.
        kind: "backbone", or the kind of the version.
        backbone: Digest of the backbone.
        version: Digest of the version; None for a bare backbone.
    """

    name: str
    kind: str
    backbone: str
    version: str | None


def find(registry: Registry, model: str | None) -> Meant:
    """What a name means now: a backbone, an adapter's live version, or the version after an `@`.

    None means the default backbone. Raises NotFound, InvalidName, or Conflict when nothing of the adapter is live.
    """
    from registry import backbones, versions

    with registry.reading() as session:
        known = backbones.all(session)
        if model is None:
            if not known:
                raise NotFound("backbone", "yet; `driftline backbone import` brings one")
            return Meant(known[0].name, "backbone", known[0].digest, None)
        for backbone in known:
            if backbone.name == model:
                return Meant(backbone.name, "backbone", backbone.digest, None)
        name, number = parse_model(model)
        versions.get_adapter(session, name)
        version = versions.live(session, name) if number is None else versions.get(session, name, number)
    if version is None:
        raise Conflict(f"nothing of {name} is live; name a version, such as {name}@1")
    return Meant(version.name, version.kind, version.backbone, version.digest)


@dataclass(frozen=True, slots=True)
class Opening:
    """Opens a model, here or in another process that sees the same data folder.

    Attributes:
        data_dir: The home.
        meant: What is opened.
        provider, precision: As asked for; "auto" leaves them open.
        threads: Threads of the runtime; None takes every core.
    """

    data_dir: Path
    meant: Meant
    provider: str = "auto"
    precision: str = "auto"
    threads: int | None = None

    def __call__(self, pinned: tuple[str, str] | None) -> "Model":
        """The model; `pinned` is the provider and precision of the run that is gone on with."""
        from encoder.adapters import Head
        from encoder.bulk.errors import ResumeRefused
        from encoder.bulk.model import Model
        from encoder.encoder import Encoder
        from encoder.lora import Lora

        provider, precision = pinned or (self.provider, self.precision)
        if self.provider not in ("auto", provider) or self.precision not in ("auto", precision):
            raise ResumeRefused(
                f"this run was begun on {provider} in {precision}; go on as it was begun, or begin anew with --restart"
            )
        registry = Home.at(self.data_dir).registry()
        try:
            encoder = Encoder.open(
                self.meant.backbone, registry.fetch, provider=provider, precision=precision, threads=self.threads
            )
            if self.meant.version is None:
                return Model(self.meant.name, encoder)
            if self.meant.kind == "lora":
                lora = Lora.open(self.meant.version, registry.fetch)
                encoder.prove(lora)
                return Model(self.meant.name, encoder, lora=lora)
            return Model(self.meant.name, encoder, head=Head.open(self.meant.version, registry.fetch))
        finally:
            registry.close()
