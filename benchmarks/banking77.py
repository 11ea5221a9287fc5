"""The whole job on Banking77, judged through the live API: `python benchmarks/banking77.py FOLDER`.

FOLDER holds train.csv and test.csv (columns text, label). Adds train.csv as a dataset, refits an adapter with the
default recipe, serves it, embeds both files over HTTP with the backbone and with the adapter, and prints k-NN accuracy
on test.csv with train.csv as the index.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from client import Vectors, embed
from machine import describe

from cli.server import running_service


def knn_accuracy(
    index: Vectors, labels: npt.NDArray[np.str_], queries: Vectors, truth: npt.NDArray[np.str_]
) -> tuple[float, float]:
    """Accuracy of the nearest neighbour, and of ten neighbours voting with their similarity."""
    names, codes = np.unique(labels, return_inverse=True)
    scores = queries @ index.T
    nearest = np.argpartition(-scores, 10, axis=1)[:, :10]
    votes = np.zeros((len(queries), len(names)), np.float32)
    for column in range(10):
        rows = np.arange(len(queries))
        np.add.at(votes, (rows, codes[nearest[:, column]]), scores[rows, nearest[:, column]])
    return float((labels[scores.argmax(1)] == truth).mean()), float((names[votes.argmax(1)] == truth).mean())


def read(path: Path) -> tuple[list[str], npt.NDArray[np.str_]]:
    """Texts and labels of one file."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], np.array([row["label"] for row in rows])


def main() -> None:
    """Run the job and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", type=Path, default=None, help="a home to keep; a temporary one if left out")
    options = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as temporary:
        home = options.data_dir or Path(temporary)

        def driftline(*arguments: str) -> float:
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "cli", *arguments, "--data-dir", str(home)], check=True)
            return time.perf_counter() - start

        driftline("backbone", "import", "--if-missing")
        added = driftline("dataset", "add", "banking77", str(options.folder / "train.csv"))
        refitted = driftline("retrain", "banking", "--dataset", "banking77", "--wait")
        print(f"dataset add {added:.1f} s, retrain --wait {refitted:.1f} s")
        train, labels = read(options.folder / "train.csv")
        test, truth = read(options.folder / "test.csv")
        with running_service(home, worker=False) as url:
            print("| model | answered by | 1-NN | 10-NN, similarity-weighted |\n| --- | --- | ---: | ---: |")
            for model in ("all-MiniLM-L6-v2", "banking"):
                index, versions = embed(url, model, train)
                queries, _ = embed(url, model, test)
                one, ten = knn_accuracy(index, labels, queries, truth)
                print(f"| {model} | {', '.join(sorted(versions))} | {one:.4f} | {ten:.4f} |")


if __name__ == "__main__":
    main()
