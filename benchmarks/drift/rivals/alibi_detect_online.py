"""alibi-detect's online MMD and LSDD over recorded streams; run in its own environment with a job file."""

import sys
import warnings

import numpy as np
from tuning import Job, compare

warnings.filterwarnings("ignore")
import torch  # noqa: E402
from alibi_detect.cd import LSDDDriftOnline, MMDDriftOnline  # noqa: E402

KINDS = {"mmd": MMDDriftOnline, "lsdd": LSDDDriftOnline}


def detector(kind, reference, ert, window, bootstraps):
    """One detector, quietly, on one thread."""
    torch.set_num_threads(1)
    return KINDS[kind](reference, ert, window, backend="pytorch", n_bootstraps=bootstraps, verbose=False, device="cpu")


def main():
    job = Job(sys.argv[1])
    np.random.seed(0)
    torch.manual_seed(0)
    made = detector(job.method, job.reference, 1000, job.window, 2000)
    inner = made._detector  # The class of the back end, whose `score` leaves out the growing history of `predict`.

    def series(vectors):
        inner.reset_state()
        for row in vectors:
            yield inner.score(row)

    compare(job, series, 1, job.window)


if __name__ == "__main__":
    main()
