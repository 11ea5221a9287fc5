"""The `driftline` command. Imports lazily and holds no logic."""
