"""What a scrape tells of retrain jobs: how many wait and run, and when the last of each kind ended."""

import re
import time

from registry import datasets, jobs
from registry.jobs import JobState


def test_a_scrape_tells_when_the_last_job_of_each_kind_ended(serving, backbone_home, publish):
    registry = publish.registry

    def end(state):
        with registry.writing() as session:
            job = jobs.enqueue(session, adapter="desk", dataset="rows", requested_by="test")
            jobs.start(session, job.id)
            return jobs.finish(session, job.id, state).finished_at.timestamp()

    with registry.writing() as session:
        rows = b"text,label\n" + b"".join(b"row %d,%d\n" % (n, n % 2) for n in range(8))
        datasets.add(session, registry.artifacts, "rows", rows, "csv")
    failed = end(JobState.FAILED)
    with serving(backbone_home) as client:

        def told():
            text = client.get("/metrics").text
            found = re.findall(
                r'^driftline_last_job_timestamp_seconds{adapter="desk",state="(\w+)"} (\S+)$', text, re.M
            )
            return {state: float(at) for state, at in found}

        assert told() == {"failed": failed}
        succeeded = end(JobState.SUCCEEDED)
        deadline = time.monotonic() + 20
        while "succeeded" not in told():  # seen by polling
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert told() == {"failed": failed, "succeeded": succeeded}
