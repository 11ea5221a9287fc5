"""A default refit beside the straightforward sentence-transformers scripts: `python benchmarks/refit_rivals.py DATA`.

DATA holds banking77/ and stsb/. One run: the default refit through the job, and full fine-tuning of the same model for
one epoch with MultipleNegativesRankingLoss and with BatchHardTripletLoss (rival_script.py says how), each in
sentence-transformers' own virtual environment, on the same rows of train.csv. Prints for each what the test rows get
(1-NN, 10-NN), what is left of general ability (STS-B), the seconds it took, what is stored for a version, and what an
index under it costs.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from machine import describe
from peer import weights_folder
from refits import Vectors, Workshop, drawn, judged_pairs, knn, labelled
from scipy.stats import spearmanr

RIVAL = "sentence-transformers[train]==6.2.0"
TORCH = "torch==2.13.0"
NAMES = {"mnrl": "MultipleNegativesRankingLoss, 1 epoch", "batch_hard": "BatchHardTripletLoss, 1 epoch"}


def environment(folder: Path) -> Path:
    """The Python of sentence-transformers' environment, made where it is missing; pip's own settings apply."""
    python = folder / "bin" / "python"
    if subprocess.run([str(python), "-c", "import sentence_transformers"], check=False, capture_output=True).returncode:
        shutil.rmtree(folder, ignore_errors=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        for step in ([sys.executable, "-m", "venv", str(folder)], [*pip, TORCH], [*pip, RIVAL]):
            subprocess.run(step, check=True)
    return python


class Comparison:
    """The rows, the questions, and the table."""

    def __init__(self, data: Path, per_label: int | None, seed: int) -> None:
        texts, labels = labelled(data / "banking77" / "train.csv")
        rows = np.arange(len(texts)) if per_label is None else drawn(labels, per_label, seed)
        self.texts, self.labels, self.seed = [texts[row] for row in rows], labels[rows], seed
        self.test, self.truth = labelled(data / "banking77" / "test.csv")
        self.judged = {part: judged_pairs(data / "stsb" / f"{part}.csv") for part in ("dev", "test")}
        print("| model | 1-NN | 10-NN | STS-B dev | STS-B test | refit | a version holds | the index is |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |", flush=True)

    @property
    def asked(self) -> list[str]:
        """Every text whose vector is needed, in the order of `show`."""
        sentences = [text for first, second, _ in self.judged.values() for text in (*first, *second)]
        return [*self.texts, *self.test, *sentences]

    def show(self, name: str, vectors: Vectors, seconds: float, holds: str, index: str) -> None:
        """One line of the table."""
        ends = np.cumsum([len(self.texts), len(self.test)])
        index_vectors, queries, rest = np.split(vectors, ends)
        one, ten = knn(index_vectors, self.labels, queries, self.truth)
        kept = []
        for first, _, scores in self.judged.values():
            left, right, rest = np.split(rest, [len(first), 2 * len(first)])
            kept.append(float(spearmanr((left * right).sum(axis=1), scores)[0]))
        took = f"{seconds:.0f} s" if seconds else ""
        print(
            f"| {name} | {one:.4f} | {ten:.4f} | {kept[0]:.4f} | {kept[1]:.4f} | {took} | {holds} | {index} |",
            flush=True,
        )

    def rows(self) -> list[dict[str, str]]:
        """The rows to fit on."""
        return [{"text": text, "label": str(label)} for text, label in zip(self.texts, self.labels, strict=True)]


def rival(python: Path, folder: Path, loss: str, compared: Comparison) -> tuple[Vectors, float]:
    """Vectors of a fine-tuned model, and the seconds of its training."""
    job = folder / f"{loss}.json"
    document = {"model": str(weights_folder()), "loss": loss, "rows": compared.rows(), "seed": compared.seed}
    job.write_text(json.dumps({**document, "texts": compared.asked}), encoding="utf-8")
    script = Path(__file__).with_name("rival_script.py")
    done = subprocess.run([str(python), str(script), str(job)], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    facts = json.loads(done.stdout.splitlines()[-1])
    vectors: Vectors = np.load(job.with_suffix(".npy"))
    return vectors, float(facts["train_s"])


def main() -> None:
    """Run them one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--per-label", type=int, default=None, help="rows of each label; all where left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--venv", type=Path, default=Path.home() / ".cache/driftline-benchmarks/sentence-transformers")
    options = parser.parse_args()
    print(describe(), f"{RIVAL} with {TORCH}, full fine-tuning in fp32", sep="\n")
    python = environment(options.venv)
    with tempfile.TemporaryDirectory() as home:
        shop = Workshop(Path(home))
        compared = Comparison(options.data, options.per_label, options.seed)
        compared.show("the backbone", shop.base(compared.asked), 0.0, "", "")
        done = shop.refit("rivals", compared.rows(), {"seed": options.seed})
        vectors = shop.encode("rivals", done.version)(compared.asked)
        compared.show(f"default refit ({done.method})", vectors, done.seconds, "2.4 MB", "re-projected")
        for loss, name in NAMES.items():
            vectors, seconds = rival(python, Path(home), loss, compared)
            compared.show(name, vectors, seconds, "90 MB", "encoded anew")


if __name__ == "__main__":
    main()
