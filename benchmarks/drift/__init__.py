"""The card of the drift monitor: level, delay beside other tools, cost; `python -m benchmarks.drift DATA`."""
