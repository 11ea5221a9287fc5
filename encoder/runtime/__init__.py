"""The only package that knows ONNX Runtime: sessions, and the choice among providers, precisions and threads."""

from encoder.runtime.choice import MIN_COSINE, choose, min_cosine
from encoder.runtime.kinds import Feed, Ids, Measurement, Precision, Provider, Vectors
from encoder.runtime.machine import cores
from encoder.runtime.session import OUTPUT, HeadSession, Session, candidates, open_session

__all__ = [
    "MIN_COSINE",
    "OUTPUT",
    "Feed",
    "HeadSession",
    "Ids",
    "Measurement",
    "Precision",
    "Provider",
    "Session",
    "Vectors",
    "candidates",
    "choose",
    "cores",
    "min_cosine",
    "open_session",
]
