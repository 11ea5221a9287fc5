"""Shared by the training tests: small labelled data of real sentences, and problems made of random vectors."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry import backbones, datasets
from registry.home import Home
from training.problem import LabelledProblem, PairProblem

ROOT = Path(__file__).resolve().parents[2]


def _module(name: str, path: Path) -> Any:
    """A module that is no part of a package."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


KILL_TABLE = _module("kill_table", ROOT / "benchmarks" / "kill_table.py")
_databases = _module("registry_databases", ROOT / "tests" / "registry" / "conftest.py")
postgresql_server = _databases.postgresql_server


@pytest.fixture
def small_home(backbone_home: Home) -> Home:
    """A home with the real backbone and the dataset `small`."""
    registry = backbone_home.registry()
    with registry.writing() as session:
        datasets.add(session, registry.artifacts, "small", KILL_TABLE.small_csv(), "csv")
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
def kill_table() -> Any:
    """The module benchmarks/kill_table.py, which drives real workers to their death."""
    return KILL_TABLE


@pytest.fixture
def postgresql_home(exported_backbone: Path, tmp_path: Path, postgresql_server: str) -> Iterator[Home]:
    """As `small_home`, its registry on PostgreSQL."""
    source = Home.at(exported_backbone, f"sqlite:///{exported_backbone}/registry.sqlite").registry()
    with source.reading() as session:
        backbone = backbones.default(session)
    assert backbone is not None
    manifest = json.loads(source.fetch(backbone.digest))
    source.close()
    shutil.copytree(exported_backbone / "artifacts", tmp_path / "home" / "artifacts")
    with _databases._fresh_database(postgresql_server) as url:
        home = Home.at(tmp_path / "home", url)
        registry = home.registry()
        with registry.writing() as session:
            backbones.add(session, manifest, backbone.digest)
            datasets.add(session, registry.artifacts, "small", KILL_TABLE.small_csv(), "csv")
        registry.close()
        yield home
