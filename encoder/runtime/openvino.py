"""The OpenVINO plugin for ONNX Runtime: found, registered once a process, and opened on the CPU."""

import json
import threading
from typing import Any

import onnxruntime as ort

from encoder.errors import NoProvider
from encoder.runtime.kinds import Precision, first_line
from encoder.runtime.machine import cpu_has_bf16

NAME = "OpenVINOExecutionProvider"

# Kernels kept in each stream. A batch of a new shape costs about a tenth more time than one of a shape that is kept.
_SHAPES = 64


class OpenVino:
    """The plugin, registered with the runtime at most once a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._device: Any = None
        self._error: str | None = None

    def installed(self) -> bool:
        """Whether the plugin's package is here."""
        return self._library() is not None

    def open(self, model: bytes, precision: Precision, threads: int, streams: int) -> Any:
        """A runtime session on the plugin's CPU device.

        Args:
            model: The ONNX file.
            precision: Arithmetic of the matrix products that are float32 in the file; beside int8 ones it is the
                fastest the CPU has.
            threads: Threads of all streams together.
            streams: Runs that are computed at the same time; further ones wait.

        Raises:
            NoProvider: The plugin does not load, or does not take the whole graph.
        """
        device = self._cpu_device()
        config = {
            "INFERENCE_PRECISION_HINT": "bf16" if _in_bf16(precision) else "f32",
            "INFERENCE_NUM_THREADS": str(threads),
            "NUM_STREAMS": str(streams),
            # Compiled kernels are kept for each shape of a batch, by default for thousands of them, 0.7 MB each.
            "CPU_RUNTIME_CACHE_CAPACITY": str(_SHAPES),
        }
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # all of the graph, or not at all
        options.add_provider_for_devices([device], {"load_config": json.dumps({"CPU": config})})
        session = ort.InferenceSession(model, options)
        if session.get_providers()[0] != NAME:
            raise NoProvider("openvino does not load: the runtime fell back to the CPU")
        return session

    def _cpu_device(self) -> Any:
        with self._lock:
            if self._device is None and self._error is None:
                try:
                    self._device = self._register()
                except Exception as error:  # noqa: BLE001  remembered: a second try in this process cannot succeed
                    self._error = first_line(error)
            if self._error is not None:
                raise NoProvider(f"openvino does not load: {self._error}")
            return self._device

    def _register(self) -> Any:
        library = self._library()
        if library is None:
            raise NoProvider("the package onnxruntime-ep-openvino is not installed")
        ort.register_execution_provider_library("driftline-openvino", library)
        for device in ort.get_ep_devices():
            if device.ep_name == NAME and device.device.type == ort.OrtHardwareDeviceType.CPU:
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


openvino = OpenVino()


def _in_bf16(precision: Precision) -> bool:
    return precision is Precision.BF16 or (precision is Precision.INT8 and cpu_has_bf16())
