"""Named points at which a worker kills itself, so that tests can prove what a power cut at that point would leave.

`DRIFTLINE_CRASH_AT=<step>.<before|after>` (for example `publish.after`) makes the worker send itself SIGKILL at that
point of a job: `before` the step's first act, or `after` its last one and before the engine has noted it as done.
`fit.during` kills it at the fit's first sign of progress, with the child process running, and `fit.checkpoint` once a
LoRA's fit has written a checkpoint. Unset, nothing happens.
"""

import os
import signal

VARIABLE = "DRIFTLINE_CRASH_AT"


def crash_point(name: str) -> None:
    """Die here, without any clean-up, if the environment names this point."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
