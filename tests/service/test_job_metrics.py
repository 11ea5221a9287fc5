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


def test_a_scrape_tells_how_often_jobs_were_taken_up_again_after_a_death(serving, backbone_home, publish):
    with publish.registry.writing() as session:
        rows = b"text,label\n" + b"".join(b"row %d,%d\n" % (n, n % 2) for n in range(8))
        datasets.add(session, publish.registry.artifacts, "rows", rows, "csv")
        for adapter, deaths in (("desk", 2), ("shop", 0), ("shed", 1)):
            job = jobs.enqueue(session, adapter=adapter, dataset="rows", requested_by="test")
            for _ in range(1 + deaths):
                jobs.start(session, job.id)
        jobs.release(session, job.id)  # stopped on purpose, and taken up again
        jobs.start(session, job.id)
    with serving(backbone_home) as client:
        assert "\ndriftline_job_recoveries 3.0\n" in client.get("/metrics").text
