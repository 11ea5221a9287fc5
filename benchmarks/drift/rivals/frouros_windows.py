"""frouros' MMD on tumbling windows, its one method for vectors; run in its own environment with a job file."""

import sys
from functools import partial

import numpy as np
from frouros.detectors.data_drift import MMD
from frouros.utils.kernels import rbf_kernel
from tuning import Job, compare


def main():
    job = Job(sys.argv[1])
    sample = job.reference[:500].astype(float)
    squared = ((sample[:, None, :] - sample[None, :, :]) ** 2).sum(axis=2)
    detector = MMD(kernel=partial(rbf_kernel, sigma=float(np.sqrt(np.median(squared[squared > 0])))))
    detector.fit(X=job.reference)

    def series(vectors):
        for start in range(0, len(vectors) - job.window + 1, job.window):
            yield float(detector.compare(X=vectors[start : start + job.window])[0].distance)

    compare(job, series, job.window, 0)


if __name__ == "__main__":
    main()
