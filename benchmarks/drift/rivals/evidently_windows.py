"""Evidently's four methods for embeddings on tumbling windows; run in its own environment with a job file."""

import sys
import warnings

import pandas as pd
from evidently.legacy.metrics.data_drift import embedding_drift_methods as methods
from tuning import Job, compare

KINDS = {"model": methods.model, "distance": methods.distance, "mmd": methods.mmd, "ratio": methods.ratio}


def main():
    warnings.filterwarnings("ignore")
    job = Job(sys.argv[1])
    reference, method = pd.DataFrame(job.reference), KINDS[job.method]()

    def series(vectors):
        for start in range(0, len(vectors) - job.window + 1, job.window):
            # Copies, as the classifier adds a column to what it is given.
            yield method(pd.DataFrame(vectors[start : start + job.window]), reference.copy())[0]

    compare(job, series, job.window, 0)


if __name__ == "__main__":
    main()
