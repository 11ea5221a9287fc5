"""`python -m training worker --data-dir DIR [--database-url URL] [--leash]`: the worker as a program."""

import argparse
import os
import sys

import structlog

from monitoring.errors import TracingUnusable
from monitoring.logs import take_over
from registry.errors import RegistryError
from registry.home import Home
from training.errors import TrainingError
from training.steps import Runtime
from training.tracing import JobTraces
from training.worker import run_worker


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 after a clean stop, 2 when the worker cannot start."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Driftline's training program.")
    commands = parser.add_subparsers(dest="command", required=True)
    worker = commands.add_parser("worker", help="run queued retrain jobs until stopped")
    worker.add_argument("--data-dir", help="the home (default: DRIFTLINE_DATA_DIR, else the user's data folder)")
    worker.add_argument(
        "--database-url", help="the registry (default: DRIFTLINE_DATABASE_URL, else SQLite in the home)"
    )
    worker.add_argument("--leash", action="store_true", help="stop when standard input is closed")
    environment = os.environ.get
    worker.add_argument("--provider", default=environment("DRIFTLINE_PROVIDER", "auto"), help="execution provider")
    worker.add_argument("--precision", default=environment("DRIFTLINE_PRECISION", "auto"), help="number format")
    worker.add_argument("--threads", type=int, default=environment("DRIFTLINE_THREADS"), help="threads of the encoder")
    options = parser.parse_args(arguments)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    take_over("dbos")
    try:
        traces = JobTraces.open()
        runtime = Runtime(options.provider, options.precision, options.threads, traces)
        try:
            run_worker(Home.at(options.data_dir, options.database_url), runtime, leashed=options.leash)
        finally:
            traces.close()
    except (TrainingError, RegistryError, TracingUnusable) as error:
        print(f"driftline worker: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
