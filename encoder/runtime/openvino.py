"""The OpenVINO plugin for ONNX Runtime: found, registered once a process, and opened on the CPU."""

import json
import threading
from typing import Any

import onnxruntime as ort

from encoder.errors import NoProvider
from encoder.runtime.kinds import Precision, first_line

NAME = "OpenVINOExecutionProvider"


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
            precision: Arithmetic of what is float32 in the file.
            threads: Threads of all streams together.
            streams: Runs that are computed at the same time; further ones wait.

        Raises:
            NoProvider: The plugin does not load, or does not take the whole graph.
        """
        device = self._cpu_device()
        config = {
            "INFERENCE_PRECISION_HINT": "f32" if precision is Precision.FP32 else "bf16",
            "INFERENCE_NUM_THREADS": str(threads),
            "NUM_STREAMS": str(streams),
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
