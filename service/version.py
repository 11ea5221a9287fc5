"""The version of the installed distribution."""

import importlib.metadata

VERSION = importlib.metadata.version("driftline")
