"""Checks of the runtime: what it offers, and a small run of the default backbone as the service would choose it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cli.doctor_check import Check, ok, problem, warning
from cli.doctor_registry import default_backbone
from registry.home import Home

if TYPE_CHECKING:
    from service.settings import Settings


def runtime(home: Home, settings: "Settings | None", *, run: bool) -> Iterator[Check]:
    """Providers that are installed, then the backbone on the one that would serve.

    Args:
        run: Whether to load the default backbone, which takes seconds.
    """
    from encoder.errors import EncoderError
    from encoder.runtime.session import candidates
    from registry.errors import RegistryError

    try:
        offered = sorted({f"{provider} {precision}" for provider, precision in candidates()})
    except ImportError:
        yield problem("runtime", "no ONNX Runtime can be loaded", "pip install 'driftline[cpu]' or 'driftline[gpu]'")
        return
    yield ok("runtime", ", ".join(offered))
    try:
        digest = default_backbone(home)
    except RegistryError:
        yield warning("model", "not looked at: the registry cannot be read")
        return
    if digest is None:
        yield warning("model", "no backbone is imported", "driftline backbone import")
        return
    if not run:
        yield ok("model", "not run, as told")
        return
    from encoder.encoder import Encoder

    provider, precision = ("auto", "auto") if settings is None else (settings.provider, settings.precision)
    try:
        encoder = Encoder.open(
            digest,
            home.artifacts().get,
            provider=provider,
            precision=precision,
            threads=None if settings is None else settings.threads,
            streams=None if settings is None else settings.streams,
        )
        cosine = encoder.self_check()
    except (EncoderError, RegistryError) as error:
        yield problem("model", str(error), "check DRIFTLINE_PROVIDER and DRIFTLINE_PRECISION, or import it again")
        return
    seen = (
        f"{encoder.manifest.name} on {encoder.session.provider} {encoder.session.precision}, "
        f"smallest cosine to its probes {cosine:.6f}"
    )
    if cosine >= encoder.least_cosine:
        yield ok("model", seen)
    else:
        yield problem("model", seen, "this machine computes other vectors: try DRIFTLINE_PRECISION=fp32")
