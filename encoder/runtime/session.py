"""Loaded models: backbones on any provider, heads on the CPU. Every `run` is safe from many threads at once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from encoder.batch import Batch, TokenIds, arrange
from encoder.errors import EncoderError, NoProvider
from encoder.runtime import openvino as plugin
from encoder.runtime.kinds import Precision, Provider, Vectors, first_line, known
from encoder.runtime.machine import cores, cpu_has_bf16

OUTPUT = "sentence_embedding"
_CUDA = "CUDAExecutionProvider"
_HEAD_ROWS = 8192


class Session:
    """A loaded backbone.

    Attributes:
        provider, precision: What computes, and in which number format.
        threads: Threads of all runs under way, together.
        streams: Runs that should be under way at once for the best throughput; one caller thread each.
        spinning: Whether idle threads of the runtime wait busily (CPU provider only).
        packed: Whether the graph takes several texts in a row.
    """

    def __init__(
        self, session: Any, provider: Provider, precision: Precision, threads: int, streams: int, spinning: bool
    ) -> None:
        self._session = lean(session)
        self.provider = provider
        self.precision = precision
        self.threads = threads
        self.streams = streams
        self.spinning = spinning
        self.packed = takes_packed(self._session)

    def run(self, tokens: TokenIds) -> Vectors:
        """Sentence vectors (n, d) float32 of texts given as token ids, in one run.

        Raises:
            EncoderError: The runtime gave values that are not finite.
        """
        batch = arrange(tokens, packed=self.packed)
        return self.run_feed(batch.feed(packed=self.packed))[: len(tokens)]

    def run_feed(self, feed: Mapping[str, npt.NDArray[Any]]) -> Vectors:
        """Output vectors (b, d) float32 of a graph with any inputs, by their names.

        Raises:
            EncoderError: The runtime gave values that are not finite.
        """
        try:
            vectors: Vectors = self._session.run([OUTPUT], feed)[0]
        except Exception as error:  # the runtime raises bare exceptions of many kinds
            raise EncoderError(f"{self.provider} in {self.precision} failed: {first_line(error)}") from error
        if not np.isfinite(vectors).all():
            raise EncoderError(f"{self.provider} in {self.precision} gave values that are not finite")
        return vectors

    def with_streams(self, streams: int) -> "Session":
        """The same loaded model, for so many runs at once; for a provider that arranges nothing for them in advance."""
        return Session(self._session, self.provider, self.precision, self.threads, streams, self.spinning)

    def sibling(self, model: bytes) -> "Session":
        """Another model opened the way this one is: same provider, precision, threads, streams and spinning.

        Raises:
            NoProvider: It does not load.
        """
        return open_session(model, self.provider, self.precision, self.threads, self.streams, self.spinning)


class HeadSession:
    """A loaded head adapter on the CPU."""

    def __init__(self, model: bytes, threads: int = 1) -> None:
        options = _cpu_options(threads, False)
        self._session = lean(ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]))

    def run(self, base: Vectors) -> Vectors:
        """Adapted vectors (n, d) float32 of base vectors (n, d) float32; computed in pieces where n is large."""
        if len(base) <= _HEAD_ROWS:
            return self._run(base)
        # The memory of a layer's output must not grow with n.
        vectors: Vectors | None = None
        for row in range(0, len(base), _HEAD_ROWS):
            piece = self._run(base[row : row + _HEAD_ROWS])
            if vectors is None:
                vectors = np.empty((len(base), *piece.shape[1:]), dtype=np.float32)
            vectors[row : row + _HEAD_ROWS] = piece
        assert vectors is not None  # noqa: S101  there was a piece at least
        return vectors

    def _run(self, base: Vectors) -> Vectors:
        vectors: Vectors = self._session.run([OUTPUT], {"base": base})[0]
        return vectors


def observe(
    model: bytes, names: Sequence[str], batches: Iterable[TokenIds]
) -> Iterator[tuple[Batch, list[npt.NDArray[Any]]]]:
    """Values of inner tensors of a backbone, computed on the CPU in float32: for each batch one array a name."""
    graph = onnx.load_model_from_string(model)
    for name in names:
        graph.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options, providers = _cpu_options(cores(), False), ["CPUExecutionProvider"]
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=providers)
    packed = takes_packed(session)
    for tokens in batches:
        batch = arrange(tokens, packed=packed)
        yield batch, session.run(list(names), batch.feed(packed=packed))


def takes_packed(session: Any) -> bool:
    """Whether a loaded graph takes several texts in a row."""
    return any(value.name == "owners" for value in session.get_inputs())


def candidates(*, int8: bool = False) -> list[tuple[Provider, Precision]]:
    """What this machine has, most promising first; what is installed is listed even if it cannot load.

    Args:
        int8: Whether the backbone has int8 weights.
    """
    found: list[tuple[Provider, Precision]] = []
    if _CUDA in ort.get_available_providers():
        found += [(Provider.CUDA, Precision.TF32), (Provider.CUDA, Precision.FP32)]
    if plugin.openvino.installed():
        if cpu_has_bf16():
            found.append((Provider.OPENVINO, Precision.BF16))
        if int8:
            found.append((Provider.OPENVINO, Precision.INT8))
        found.append((Provider.OPENVINO, Precision.FP32))
    if int8:
        found.append((Provider.CPU, Precision.INT8))
    found.append((Provider.CPU, Precision.FP32))
    return found


def open_session(
    model: bytes,
    provider: str,
    precision: str,
    threads: int | None = None,
    streams: int = 1,
    spinning: bool = False,
) -> Session:
    """Load a backbone with one provider and precision.

    Args:
        model: An ONNX file that `check_graph` accepts; for int8 the one with int8 weights.
        provider, precision: A pair `candidates` may return.
        threads: Threads of all runs together; None takes every core available.
        streams: Runs that are to be computed at once, at most `threads`.
        spinning: Let idle threads of the CPU provider wait busily; the others have no such choice.

    Raises:
        NoProvider: The provider is unknown, not on this machine, or does not load.
    """
    pair = (known(Provider, provider), known(Precision, precision))
    threads = threads or cores()
    streams = max(1, min(streams, threads))
    try:
        match pair:
            case (Provider.CPU, Precision.FP32 | Precision.INT8):
                # One pool serves all runs of a session, and each caller's own thread works too.
                options = _cpu_options(threads - streams + 1, spinning)
                session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            case (Provider.OPENVINO, Precision.FP32 | Precision.BF16 | Precision.INT8):
                session = plugin.openvino.open(model, pair[1], threads, streams)
            case (Provider.CUDA, Precision.FP32 | Precision.TF32):
                session = _open_cuda(model, pair[1], threads)
            case _:
                raise NoProvider(f"{provider} does not compute in {precision}")
    except NoProvider:
        raise
    except Exception as error:  # the runtime and its plugins raise bare exceptions of many kinds
        raise NoProvider(f"{provider} in {precision} does not load: {first_line(error)}") from error
    return Session(session, pair[0], pair[1], threads, streams, spinning)


def lean(session: Any) -> Any:
    """The session without the model's bytes, which onnxruntime's Python class keeps for a fallback that is not ours."""
    session.disable_fallback()
    session._model_bytes = None
    return session


def _cpu_options(threads: int, spinning: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # shapes vary from batch to batch
    # The runtime shares its cores with a web server: idle threads that spin would take them away.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    return options


def _open_cuda(model: bytes, precision: Precision, threads: int) -> Any:
    # CUDA's libraries may have come as packages, where no loader looks for them.
    ort.preload_dlls()
    options = {"use_tf32": "1" if precision is Precision.TF32 else "0"}
    providers = [(_CUDA, options), "CPUExecutionProvider"]
    session = ort.InferenceSession(model, _cpu_options(threads, False), providers=providers)
    if session.get_providers()[0] != _CUDA:
        raise NoProvider("cuda does not load: the runtime fell back to the CPU")
    return session
