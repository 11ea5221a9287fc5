"""The only package that knows ONNX Runtime: sessions, and the choice among providers, precisions and threads."""

from encoder.runtime.choice import BAR, INT8_BAR, Int8, Run, Yardstick, choose, least_cosine, min_cosine
from encoder.runtime.kinds import BATCH_TOLERANCE, Arrangement, Measurement, Precision, Provider, Vectors
from encoder.runtime.machine import cores, release_memory
from encoder.runtime.session import OUTPUT, HeadSession, Session, candidates, observe, open_session

__all__ = [
    "BAR",
    "BATCH_TOLERANCE",
    "INT8_BAR",
    "OUTPUT",
    "Arrangement",
    "HeadSession",
    "Int8",
    "Measurement",
    "Precision",
    "Provider",
    "Run",
    "Session",
    "Vectors",
    "Yardstick",
    "candidates",
    "choose",
    "cores",
    "least_cosine",
    "min_cosine",
    "observe",
    "open_session",
    "release_memory",
]
