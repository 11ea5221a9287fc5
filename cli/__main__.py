"""`python -m cli`: the same as the `driftline` command."""

from cli.main import run

run()
