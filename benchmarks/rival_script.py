"""The straightforward sentence-transformers script, run in its own environment by refit_rivals.py.

`python rival_script.py JOB.json`: fine-tunes the whole model on labelled rows for one epoch and saves vectors. The loss
is MultipleNegativesRankingLoss on pairs of rows of one label (batches of 16 without repeats) or BatchHardTripletLoss
(batches of 32 grouped by label), with the trainer's own learning rate of 2e-5 and a warm-up of a tenth, as in the
examples of its documentation. Prints one line of JSON: the seconds of the training and of the encoding.
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.training_args import BatchSamplers


def pairs(rows: list[dict[str, Any]], chance: random.Random) -> Dataset:
    """Each row with another of its label."""
    by_label: dict[str, list[str]] = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(row["text"])
    anchors, positives = [], []
    for row in rows:
        others = [text for text in by_label[row["label"]] if text != row["text"]]
        if others:
            anchors.append(row["text"])
            positives.append(chance.choice(others))
    return Dataset.from_dict({"anchor": anchors, "positive": positives})


def labelled(rows: list[dict[str, Any]]) -> Dataset:
    """Rows with their labels as numbers."""
    names = sorted({row["label"] for row in rows})
    codes = [names.index(row["label"]) for row in rows]
    return Dataset.from_dict({"sentence": [row["text"] for row in rows], "label": codes})


def main(path: Path) -> None:
    """Train, encode, save."""
    job = json.loads(path.read_text(encoding="utf-8"))
    model = SentenceTransformer(job["model"], device="cpu")
    ranking = job["loss"] == "mnrl"
    rows = pairs(job["rows"], random.Random(job["seed"])) if ranking else labelled(job["rows"])
    loss = losses.MultipleNegativesRankingLoss(model) if ranking else losses.BatchHardTripletLoss(model)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(path.with_suffix(".out")),
        num_train_epochs=1,
        per_device_train_batch_size=16 if ranking else 32,
        learning_rate=2e-5,
        warmup_steps=0.1,
        batch_sampler=BatchSamplers.NO_DUPLICATES if ranking else BatchSamplers.GROUP_BY_LABEL,
        save_strategy="no",
        report_to="none",
        seed=job["seed"],
        use_cpu=True,
        disable_tqdm=True,
    )
    started = time.perf_counter()
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss).train()
    trained = time.perf_counter() - started
    started = time.perf_counter()
    vectors = model.encode(job["texts"], batch_size=32, normalize_embeddings=True, show_progress_bar=False)
    encoded = time.perf_counter() - started
    np.save(path.with_suffix(".npy"), np.asarray(vectors, dtype=np.float32))
    print(json.dumps({"train_s": trained, "encode_s": encoded}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
