"""Shared by the training tests: small labelled data of real sentences, and problems made of random vectors."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from registry import datasets
from registry.home import Home
from training.problem import LabelledProblem, PairProblem

SUBJECTS = {
    "card": ("my card", "the bank card", "a debit card", "the credit card", "her new card", "our company card"),
    "parcel": ("my parcel", "the package", "a delivery", "the shipment", "her order", "our box of books"),
    "flight": ("my flight", "the plane", "a connection", "the trip", "her journey", "our holiday flight"),
    "invoice": ("my invoice", "the bill", "a receipt", "the payment slip", "her statement", "our yearly account"),
}
PHRASES = (
    "where is {} now",
    "{} has not arrived yet",
    "please cancel {} today",
    "I cannot find {} anywhere",
    "who can help me with {}",
    "why was {} so expensive",
    "{} is damaged, what now",
    "can I change {} online",
)


def small_csv() -> bytes:
    """192 labelled rows, four labels."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["text", "label"])
    for label, subjects in SUBJECTS.items():
        for subject in subjects:
            for phrase in PHRASES:
                writer.writerow([phrase.format(subject), label])
    return out.getvalue().encode()


@pytest.fixture
def small_home(backbone_home: Home) -> Home:
    """A home with the real backbone and the dataset `small`."""
    registry = backbone_home.registry()
    with registry.writing() as session:
        datasets.add(session, registry.artifacts, "small", small_csv(), "csv")
    registry.close()
    return backbone_home


def unit(array: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length, float32."""
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="session")
def labelled_problem() -> Callable[..., LabelledProblem]:
    """Makes classes that differ in a few directions and are drowned in noise in the others: a head can help."""

    def make(classes: int = 12, per_class: int = 20, dimension: int = 48, seed: int = 3) -> LabelledProblem:
        rng = np.random.default_rng(seed)
        centres = np.zeros((classes, dimension))
        centres[:, :8] = rng.normal(size=(classes, 8))
        labels = np.repeat(np.arange(classes), per_class)
        spread = np.full(dimension, 1.1)
        spread[:8] = 0.45
        vectors = unit(centres[labels] + rng.normal(size=(len(labels), dimension)) * spread)
        order = rng.permutation(len(labels))
        cut = int(0.75 * len(order))
        fit, select = np.sort(order[:cut]), np.sort(order[cut:])
        return LabelledProblem(vectors, fit, labels[fit], select, labels[select])

    return make


@pytest.fixture(scope="session")
def pair_problem() -> Callable[..., PairProblem]:
    """Makes pairs whose two sides share a few directions."""

    def make(pairs: int = 300, dimension: int = 48, seed: int = 4) -> PairProblem:
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=(pairs, 8))

        def side() -> np.ndarray:
            noise = rng.normal(size=(pairs, dimension)) * 0.8
            noise[:, :8] = shared + rng.normal(size=(pairs, 8)) * 0.35
            return noise

        vectors = unit(np.concatenate([side(), side()]))
        cut = int(0.75 * pairs)
        anchors = np.arange(pairs)
        negatives = np.full(cut, -1)
        negatives[::3] = (anchors[:cut][::3] + 7) % cut + pairs
        return PairProblem(
            vectors, anchors[:cut], anchors[:cut] + pairs, negatives, anchors[cut:], anchors[cut:] + pairs
        )

    return make


@pytest.fixture(scope="session")
def kill_table() -> object:
    """The module benchmarks/kill_table.py, which drives real workers to their death."""
    import importlib.util

    path = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_table.py"
    spec = importlib.util.spec_from_file_location("kill_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["kill_table"] = module
    spec.loader.exec_module(module)
    return module
