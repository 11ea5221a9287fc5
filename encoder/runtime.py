"""The only file that knows ONNX Runtime: sessions, and the choice of an execution provider by measuring the machine.

Every candidate the machine offers must first reproduce the model's probe vectors; the fastest of those serves. A
provider that fails to load or deviates is reported with its error and never stops the others.
"""

import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import structlog

from encoder.errors import EncoderError, NoProvider

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Feed = tuple[Ids, Ids]
"""Token ids and attention mask of one batch, both (b, t) int64."""

OUTPUT = "sentence_embedding"
MIN_COSINE = 0.9999
_MEASURE_SECONDS = 0.15
_OPENVINO = "OpenVINOExecutionProvider"
_CUDA = "CUDAExecutionProvider"

Kind = TypeVar("Kind", bound=StrEnum)

log = structlog.get_logger()


class Provider(StrEnum):
    """Execution providers this service knows."""

    CPU = "cpu"
    OPENVINO = "openvino"
    CUDA = "cuda"


class Precision(StrEnum):
    """Number format of the matrix products; weights and vectors are float32 in every one."""

    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one candidate showed.

    Attributes:
        provider, precision: The candidate.
        texts_per_second: Speed on a batch of short probe texts; 0 if it was not measured.
        min_cosine: Smallest cosine to the manifest's probe vectors; None if it did not run.
        chosen: Whether it serves.
        error: Why it was left out, if it was.
    """

    provider: Provider
    precision: Precision
    texts_per_second: float = 0.0
    min_cosine: float | None = None
    chosen: bool = False
    error: str | None = None


class Session:
    """A loaded backbone; `run` is safe from many threads at once."""

    def __init__(self, session: Any, provider: Provider, precision: Precision, threads: int) -> None:
        self._session = session
        self.provider = provider
        self.precision = precision
        self.threads = threads

    def run(self, ids: Ids, mask: Ids) -> Vectors:
        """Sentence vectors (b, d) float32 of a padded batch, (b, t) int64 ids and mask.

        Raises:
            EncoderError: The runtime gave values that are not finite.
        """
        vectors: Vectors = self._session.run([OUTPUT], {"input_ids": ids, "attention_mask": mask})[0]
        if not np.isfinite(vectors).all():
            raise EncoderError(f"{self.provider} in {self.precision} gave values that are not finite")
        return vectors


class HeadSession:
    """A loaded head adapter on the CPU with one thread; `run` is safe from many threads at once."""

    def __init__(self, model: bytes) -> None:
        self._session = ort.InferenceSession(model, _cpu_options(1), providers=["CPUExecutionProvider"])

    def run(self, base: Vectors) -> Vectors:
        """Adapted vectors (n, d) float32 of base vectors (n, d) float32."""
        vectors: Vectors = self._session.run([OUTPUT], {"base": base})[0]
        return vectors


def cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def candidates() -> list[tuple[Provider, Precision]]:
    """What this machine has, most promising first; what is installed is listed even if it cannot load."""
    found: list[tuple[Provider, Precision]] = []
    if _CUDA in ort.get_available_providers():
        found += [(Provider.CUDA, Precision.TF32), (Provider.CUDA, Precision.FP32)]
    if _openvino.installed():
        if _cpu_has_bf16():
            found.append((Provider.OPENVINO, Precision.BF16))
        found.append((Provider.OPENVINO, Precision.FP32))
    found.append((Provider.CPU, Precision.FP32))
    return found


def open_session(model: bytes, provider: str, precision: str, threads: int | None = None) -> Session:
    """Load a backbone with one provider and precision.

    Args:
        model: An ONNX file that `check_graph` accepts.
        provider, precision: A pair `candidates` may return.
        threads: Threads of one run; None takes every core available.

    Raises:
        NoProvider: The provider is unknown, not on this machine, or does not load.
    """
    pair = (_known(Provider, provider), _known(Precision, precision))
    threads = threads or cores()
    try:
        match pair:
            case (Provider.CPU, Precision.FP32):
                session = ort.InferenceSession(model, _cpu_options(threads), providers=["CPUExecutionProvider"])
            case (Provider.OPENVINO, Precision.FP32 | Precision.BF16):
                session = _openvino.open(model, pair[1], threads)
            case (Provider.CUDA, Precision.FP32 | Precision.TF32):
                session = _open_cuda(model, pair[1], threads)
            case _:
                raise NoProvider(f"{provider} does not compute in {precision}")
    except NoProvider:
        raise
    except Exception as error:  # the runtime and its plugins raise bare exceptions of many kinds
        raise NoProvider(f"{provider} in {precision} does not load: {_first_line(error)}") from error
    return Session(session, pair[0], pair[1], threads)


def choose(
    model: bytes,
    feeds: Sequence[Feed],
    expected: Vectors,
    provider: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> tuple[Session, list[Measurement]]:
    """The fastest session that reproduces the probe vectors, and what every candidate showed.

    Args:
        model: An ONNX file that `check_graph` accepts.
        feeds: The probes as padded batches; the first one is also what speed is measured on.
        expected: (n, d) float32, the probe vectors in the order of the feeds.
        provider, precision: Narrow the candidates; "auto" leaves them open.
        threads: Threads of one run; None takes every core available.

    Raises:
        NoProvider: Nothing asked for is on this machine, or nothing reproduces the probes; names each fault.
    """
    wanted = [
        pair
        for pair in candidates()
        if (provider == "auto" or pair[0] == _known(Provider, provider))
        and (precision == "auto" or pair[1] == _known(Precision, precision))
    ]
    if not wanted:
        has = ", ".join(f"{name}/{kind}" for name, kind in candidates())
        raise NoProvider(f"provider {provider} in precision {precision} is not on this machine, which has {has}")
    best: Session | None = None
    measured: list[Measurement] = []
    fastest = 0.0
    for name, kind in wanted:
        session, result = _measure(model, name, kind, threads, feeds, expected)
        measured.append(result)
        if result.error is not None:
            log.warning("encoder.provider_left_out", provider=name, precision=kind, reason=result.error)
        elif result.texts_per_second > fastest:
            best, fastest = session, result.texts_per_second
    if best is None:
        faults = "; ".join(f"{m.provider}/{m.precision}: {m.error}" for m in measured)
        raise NoProvider(f"no execution provider reproduces the probe vectors: {faults}")
    chosen = (best.provider, best.precision)
    return best, [replace(m, chosen=(m.provider, m.precision) == chosen) for m in measured]


def min_cosine(vectors: Vectors, expected: Vectors) -> float:
    """Smallest cosine between equal rows of two (n, d) arrays; -1 where shapes differ or values are not finite."""
    if vectors.shape != expected.shape or not np.isfinite(vectors).all():
        return -1.0
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    return float(np.min((vectors * expected).sum(axis=1) / np.maximum(norms, 1e-12)))


def _measure(
    model: bytes,
    provider: Provider,
    precision: Precision,
    threads: int | None,
    feeds: Sequence[Feed],
    expected: Vectors,
) -> tuple[Session | None, Measurement]:
    """Load one candidate, hold it against the probes, then time it."""
    result = Measurement(provider, precision)
    try:
        session = open_session(model, provider, precision, threads)
        cosine = min_cosine(np.concatenate([session.run(*feed) for feed in feeds]), expected)
        if cosine < MIN_COSINE:
            fault = f"vectors deviate from the probes: smallest cosine {cosine:.6f}, at least {MIN_COSINE} is required"
            return None, replace(result, min_cosine=cosine, error=fault)
        return session, replace(result, min_cosine=cosine, texts_per_second=_speed(session, feeds[0]))
    except Exception as error:  # noqa: BLE001  a plugin may raise anything; one bad provider must not stop the rest
        return None, replace(result, error=_first_line(error))


def _speed(session: Session, feed: Feed) -> float:
    """Texts a second on one batch: the best of some runs within a seventh of a second, at least two."""
    best = float("inf")
    until = time.perf_counter() + _MEASURE_SECONDS
    runs = 0
    while runs < 2 or time.perf_counter() < until:
        start = time.perf_counter()
        session.run(*feed)
        best = min(best, time.perf_counter() - start)
        runs += 1
    return len(feed[0]) / best


def _quiet_options() -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return options


def _cpu_options(threads: int) -> Any:
    options = _quiet_options()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # shapes vary from batch to batch
    # The runtime shares its cores with a web server: idle threads that spin would take them away.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _open_cuda(model: bytes, precision: Precision, threads: int) -> Any:
    options = {"use_tf32": "1" if precision is Precision.TF32 else "0"}
    session = ort.InferenceSession(model, _cpu_options(threads), providers=[(_CUDA, options), "CPUExecutionProvider"])
    if session.get_providers()[0] != _CUDA:
        raise NoProvider("cuda does not load: the runtime fell back to the CPU")
    return session


class _OpenVino:
    """The OpenVINO plugin, registered with the runtime at most once a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._device: Any = None
        self._error: str | None = None

    def installed(self) -> bool:
        """Whether the plugin's package is here."""
        return self._library() is not None

    def open(self, model: bytes, precision: Precision, threads: int) -> Any:
        """A session on the plugin's CPU device."""
        device = self._cpu_device()
        hint = "bf16" if precision is Precision.BF16 else "f32"
        config = {"CPU": {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": str(threads)}}
        options = _quiet_options()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # all of the graph, or not at all
        options.add_provider_for_devices([device], {"load_config": json.dumps(config)})
        session = ort.InferenceSession(model, options)
        if session.get_providers()[0] != _OPENVINO:
            raise NoProvider("openvino does not load: the runtime fell back to the CPU")
        return session

    def _cpu_device(self) -> Any:
        with self._lock:
            if self._device is None and self._error is None:
                try:
                    self._device = self._register()
                except Exception as error:  # noqa: BLE001  remembered: a second try in this process cannot succeed
                    self._error = _first_line(error)
            if self._error is not None:
                raise NoProvider(f"openvino does not load: {self._error}")
            return self._device

    def _register(self) -> Any:
        library = self._library()
        if library is None:
            raise NoProvider("the package onnxruntime-ep-openvino is not installed")
        ort.register_execution_provider_library("driftline-openvino", library)
        for device in ort.get_ep_devices():
            if device.ep_name == _OPENVINO and device.device.type == ort.OrtHardwareDeviceType.CPU:
                return device
        raise NoProvider("the plugin offers no CPU device")

    @staticmethod
    def _library() -> str | None:
        try:
            import onnxruntime_ep_openvino

            library: str = onnxruntime_ep_openvino.get_library_path()
        except (ImportError, OSError):
            return None
        return library


_openvino = _OpenVino()


def _cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; elsewhere bf16 would be emulated, slow and no gain."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _known(kind: type[Kind], value: str) -> Kind:
    try:
        return kind(value)
    except ValueError as error:
        names = ", ".join(kind)
        raise NoProvider(f"{value!r} is not a known {kind.__name__.lower()}; known are auto, {names}") from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
